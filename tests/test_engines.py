"""The two engines. Oracles: `plain` against the model itself, one whole sequence at a time, and against
transformers' own generate; `shared` against `plain`, in float64, so that only a real mistake shows."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.trainers import relative
from transformers import AutoConfig, AutoModelForCausalLM

from custom_types import Example, Problem, Role, Rollout, TaskType
from model.engine.plain import PlainEngine
from model.engine.shared import SharedEngine
from model.inference import ENGINES, engine_of, generate, rollout
from model.policy.tiny import build_tiny

STOPS, PAD, WORDS = (1, 2), 0, 50
SHAPE = dict(vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
MODELS = {
    "tiny": None,
    "qwen2": ("qwen2", SHAPE),
    "llama": ("llama", SHAPE),
    "gpt2": ("gpt2", dict(vocab_size=WORDS, n_embd=32, n_layer=2, n_head=4, n_positions=64)),
    "mistral": ("mistral", SHAPE | dict(sliding_window=4096)),
}
WINDOW = ("mistral", SHAPE | dict(sliding_window=6))
# What only the plain engine gets right: a window, ALiBi, capped and scaled logits.
PLAIN_ONLY = {
    "window": WINDOW,
    "some windows": ("gemma3_text", SHAPE | dict(head_dim=16, sliding_window=6)),
    "alibi": ("bloom", dict(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=4)),
    "capped logits": ("gemma2", SHAPE | dict(head_dim=16, final_logit_softcapping=2.0)),
    "scaled logits": ("granite", SHAPE | dict(logits_scaling=2.0)),
}


def model_of(kind: str, settings: dict, dtype=torch.float64):
    """Random, in eval mode; weights are large enough for attention to matter."""
    config = AutoConfig.for_model(kind, **settings, eos_token_id=STOPS[0], pad_token_id=PAD)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return exact(model.to(dtype).eval())


def exact(model):
    """transformers' RMS norms round to float32 inside, whatever the model; here they do not."""
    for module in model.modules():
        if type(module).__name__ in ("Qwen2RMSNorm", "LlamaRMSNorm", "MistralRMSNorm"):
            module.forward = partial(_rms_norm, module)
    return model


def _rms_norm(module, hidden):
    return (
        module.weight * hidden * (hidden.square().mean(-1, True) + module.variance_epsilon).rsqrt()
    )


def named(name: str):
    if name == "tiny":
        return exact(build_tiny(31, 0).model.double().eval())
    return model_of(*MODELS[name])


def prompts(n: int) -> list[tuple[int, ...]]:
    """Of 3 to 11 tokens, some of which begin alike, and each twice."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(3, WORDS, (n, 12), generator=generator).tolist()
    rows = [tuple([7, 8, 9][: k % 4] + ids[: 3 + k % 9]) for k, ids in enumerate(drawn)]
    return [row for row in rows for _ in range(2)]


# In float64 the attention that these two write out themselves masks with numbers that it rounds to
# infinity.
IN_FLOAT32 = {"alibi", "capped logits"}


def odd(name: str):
    """The model and how far from equal rounding may leave it."""
    if name in IN_FLOAT32:
        return model_of(*PLAIN_ONLY[name], dtype=torch.float32), 2e-5
    return (model_of(*PLAIN_ONLY[name]) if name in PLAIN_ONLY else named(name)), 1e-9


def uniform(n: int, most: int) -> torch.Tensor:
    return torch.rand(n, most, generator=torch.Generator().manual_seed(2))


def examples(model, temperature=0.7) -> list[Example]:
    """Sampled responses of several lengths; each weighs another number, by which it is known."""
    asked = prompts(9)
    engine = PlainEngine(model, STOPS, PAD)
    problem = Problem(TaskType.DEDUCTION, 2, 4, 7)
    return [
        Example(
            Rollout(Role.SOLVER, problem.task, problem, ids, r.ids, r.logprobs, "", r.finished),
            advantage=0.0,
            weight=float(number),
        )
        for number, (ids, r) in enumerate(
            zip(asked, engine.sample(asked, uniform(len(asked), 9), temperature), strict=True)
        )
    ]


def scores(engine, given, floor=0.05, temperature=0.7, max_tokens=64) -> dict[int, torch.Tensor]:
    """(3, T) log-probabilities, entropies and bonuses of each example, by its number."""
    found = {}
    for batch in engine.batches(given, max_tokens):
        parts = engine.score(batch, temperature, floor)
        for row, number in enumerate(batch.weights.int().tolist()):
            mask = batch.response_mask[row]
            found[number] = torch.stack([values[row][mask] for values in parts])
            assert all((values[row][~mask] == 0).all() for values in parts)
    assert sorted(found) == list(range(len(given)))
    return found


def gradient(model, found: dict[int, torch.Tensor]) -> torch.Tensor:
    """Of a sum in which every log-probability and every bonus has a weight of its own."""
    total = sum(
        (one[0] * torch.arange(1, one.shape[1] + 1)).sum() * (n + 1) + 0.3 * (n + 2) * one[2].sum()
        for n, one in found.items()
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    parts = torch.autograd.grad(total, weights, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


@pytest.mark.parametrize("name", MODELS)
def test_shared_equals_plain(name):
    """Tokens, log-probabilities, entropies, bonuses and the gradient of all weights."""
    model = named(name)
    plain, shared = (kind(model, STOPS, PAD) for kind in (PlainEngine, SharedEngine))
    asked = prompts(9)
    for temperature in (1.0, 0.6, 0.0):
        theirs, ours = (e.sample(asked, uniform(18, 9), temperature) for e in (plain, shared))
        assert [r.ids for r in ours] == [r.ids for r in theirs]
        assert [r.finished for r in ours] == [r.finished for r in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)  # kept in float32
    assert len({len(r.ids) for r in theirs}) > 1 or name == "tiny"
    given = examples(model)
    wanted, found = scores(plain, given), scores(shared, given)
    for number, values in wanted.items():
        torch.testing.assert_close(found[number], values, rtol=0, atol=1e-9)
    assert relative(gradient(model, found), gradient(model, wanted)) < 1e-9


@pytest.mark.parametrize("name", [*MODELS, *PLAIN_ONLY])
def test_plain_is_the_model_itself(name):
    """Sampled token by token and scored from the logits of each whole sequence alone."""
    model, rounding = odd(name)
    engine = PlainEngine(model, STOPS, PAD)
    given = examples(model)
    assert max(len(one.rollout.prompt_ids + one.rollout.response_ids) for one in given) > 12
    drawn = uniform(len(given), 9)
    found = scores(engine, given, floor=0.0)
    for number, one in enumerate(given):
        ids = one.rollout.prompt_ids + one.rollout.response_ids
        first = len(one.rollout.prompt_ids)
        with torch.no_grad():
            full = (model(torch.tensor([ids]), use_cache=False).logits[0] / 0.7).log_softmax(-1)
        rows = full[first - 1 : -1]
        wanted = rows.gather(1, torch.tensor(ids[first:])[:, None])[:, 0]
        entropy = -(rows.exp() * rows).sum(-1)
        torch.testing.assert_close(found[number][0], wanted, rtol=0, atol=rounding)
        torch.testing.assert_close(found[number][1], entropy, rtol=0, atol=rounding)
        assert one.rollout.old_logprobs == pytest.approx(wanted.tolist(), abs=2e-5)
        # Inverse sampling by hand: the first token whose cumulative probability passes the number.
        for step, token in enumerate(ids[first:]):
            below = rows[step].exp().cumsum(0)
            assert below[token] > drawn[number, step] - 1e-6
            assert token == 0 or below[token - 1] < drawn[number, step] + 1e-6


@pytest.mark.parametrize("name", PLAIN_ONLY)
def test_shared_differs_where_it_does_not_fit(name):
    """Negative control: for these models the comparison above would fail."""
    model, _ = odd(name)
    given = examples(model)
    wanted = scores(PlainEngine(model, STOPS, PAD), given)
    try:
        found = scores(SharedEngine(model, STOPS, PAD), given)
    except Exception:  # an architecture that takes no such mask
        return
    assert max((found[n] - wanted[n]).abs().max() for n in wanted) > 1e-3


def test_plain_greedy_equals_transformers_generate():
    """Within a window, with a cache that drops what lies outside of it."""
    model = model_of(*WINDOW)
    asked = prompts(5)[::2]
    ours = PlainEngine(model, STOPS, PAD).sample(asked, torch.zeros(5, 9), 0.0)
    for prompt, response in zip(asked, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=9, eos_token_id=list(STOPS),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        )  # fmt: skip
        assert list(response.ids) == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ENGINES)
def test_no_batch_has_more_positions_than_allowed(kind):
    """Or one row of the longest example; every example is in one batch, once (`scores` counts)."""
    model = named("qwen2")
    given = examples(model)
    engine = ENGINES[kind](model, STOPS, PAD)
    longest = max(len(e.rollout.prompt_ids + e.rollout.response_ids) for e in given)
    for most in (1, 40, 10_000):
        assert all(b.input_ids.numel() <= max(most, longest) for b in engine.batches(given, most))
        assert len(scores(engine, given, max_tokens=most)) == len(given)
    assert engine.batches([], 40) == []


def test_a_policy_names_its_engine(warm_tiny):
    """Both play the same game: the same texts, by the same numbers."""
    policy, renderer, args = warm_tiny
    asked = [renderer.proposer(task, [Problem(task, 2, 4, 7)]) for task in TaskType] * 4
    texts = {}
    for name, kind in ENGINES.items():
        player = replace(policy, engine=name)
        assert type(engine_of(player)) is kind
        found = rollout(
            player, asked, temperature=1.0, max_rows=5, generator=torch.Generator().manual_seed(3)
        )
        texts[name] = [one.text for one in found]
    assert texts["plain"] == texts["shared"] and len(set(texts["plain"])) > 1


def test_how_rows_are_sliced_changes_no_row_of_the_plain_engine():
    model, asked = named("gpt2"), prompts(6)
    found = [
        generate(
            model, asked, max_new_tokens=9, temperature=1.0, stop_ids=STOPS, pad_id=PAD, max_rows=rows,
            generator=torch.Generator().manual_seed(4), engine=PlainEngine,
        )
        for rows in (1, 5, 64)
    ]  # fmt: skip
    assert [r.ids for r in found[0]] == [r.ids for r in found[1]] == [r.ids for r in found[2]]
