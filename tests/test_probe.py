"""Which engine a model gets, and which models get none. Oracles: transformers' own forward pass, and the
arithmetic of prompt, response and window."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.odd_models import EXPERTS, GPT2, SHAPE, SHORT, WORDS, odd_model, said_of
from helpers.trainers import trainer_of, untimed
from transformers import AutoModelForCausalLM

from custom_types import TASKS, Role, Rollout
from model import train
from model.args import AZRArgs
from model.engine.probe import differences, fitted, logprobs_alone, shared_fault
from model.engine.shared import SharedEngine
from model.eval import baselines
from model.policy.limits import longest_prompts
from model.policy.load import PolicyError, load_policy
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer

SMALL_RUN = ["--total-steps", "2", "--max-prime", "13", "--batch-size", "8", "--n-attempts", "3",
             "--warm-start-steps", "20", "--eval-every", "2"]  # fmt: skip
SMALL = dict(max_prime=13, n_references=1, max_answer_tokens=12, max_proposal_tokens=20)


def probed(folder, **changes):
    """Policy with its engine, renderer and arguments; the model has passed the probe."""
    args = AZRArgs(model=str(folder), **SMALL | changes)
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    policy, _ = fitted(policy, renderer, args)
    return policy, renderer, args


def longest_of(folder) -> int:
    _, renderer, args = probed(folder)
    return max(len(own.ids) + own.max_tokens for own in longest_prompts(renderer, args))


# What the shared engine does not fit: an architecture, and why.
PLAIN = {
    "logit scale": ("cohere", SHAPE | dict(num_key_value_heads=2), "its logits are more than its output layer's"),
    "logit divisor": ("granite", SHAPE | dict(logits_scaling=2.0), "its logits are more than its output layer's"),
    "soft cap": ("gemma2", SHAPE | dict(head_dim=16), "its logits are more than its output layer's"),
    "alibi": ("bloom", dict(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=2), "does not allow it"),
    "alibi, mask unread": ("mpt", dict(vocab_size=WORDS, d_model=32, n_layers=2, n_heads=2), "differ by"),
    "local attention": ("gpt_neo", dict(vocab_size=WORDS, hidden_size=32, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]]), "its attention window is 256"),
    "linear attention": ("qwen3_next", SHAPE | EXPERTS | dict(
        num_hidden_layers=4, shared_expert_intermediate_size=16, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16), "does not allow it"),
    "window": ("gemma3_text", SHAPE | dict(head_dim=16, sliding_window=512), "its attention window is 512"),
    "window, all layers": ("mistral", SHAPE | dict(sliding_window=300), "its attention window is 300"),
    "window, some layers": ("qwen2", SHAPE | dict(use_sliding_window=True, sliding_window=64, max_window_layers=1), "its attention window is 64"),
    "window, sinks": ("gpt_oss", SHAPE | dict(num_local_experts=4, head_dim=16), "its attention window is 128"),
    "chunks": ("llama4_text", SHAPE | dict(num_local_experts=2, head_dim=16, intermediate_size_mlp=48, attention_chunk_size=100), "its attention_chunk_size is 100"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAIN)
def test_what_does_not_fit_the_shared_engine_is_trained_by_the_plain_one(tmp_path, capsys, kind):
    """A line says why; sampler and update agree; with --engine shared it is refused."""
    name, settings, reason = PLAIN[kind]
    folder = odd_model(tmp_path / "model", name, **settings)
    status, said = said_of(capsys, folder, "--engine", "shared")
    assert (
        status == 2 and said.startswith("--engine shared: must be plain or auto") and reason in said
    )
    run = tmp_path / "run"
    assert train.main([*SHORT, "--model", str(folder), "--run-dir", str(run)]) == 0
    (line,) = [
        one for one in capsys.readouterr().out.splitlines() if one.startswith("engine plain")
    ]
    assert line.startswith("engine plain, since ") and reason in line
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["sampling/logp_difference_max"] < 1e-3 and row["grad_norm"] > 0


# What neither engine fits, and what has no room: what is said.
REFUSED = {
    "state space": ("mamba", dict(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=8), "cannot be sampled and trained"),
    "recurrence": ("rwkv", dict(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2), "cannot be sampled and trained"),
    "both directions": ("bert", SHAPE | dict(num_key_value_heads=2, max_position_embeddings=2048), "cannot be sampled and trained"),
    "positions": ("gpt2", GPT2 | dict(n_positions=256), "and has 256; lower --max-answer-tokens"),
    "positions, rotary": ("llama", SHAPE | dict(max_position_embeddings=512), "and has 512; lower"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(tmp_path, capsys, kind):
    name, settings, reason = REFUSED[kind]
    status, said = said_of(capsys, odd_model(tmp_path / "model", name, **settings))
    assert status == 2 and said.startswith(f"--model {tmp_path / 'model'}: ") and reason in said


def test_baselines_refuse_it_too_and_play_what_fits(tmp_path, capsys):
    folder = odd_model(tmp_path / "rwkv", *REFUSED["recurrence"][:1], **REFUSED["recurrence"][1])
    assert baselines.main(["--model", str(folder), "--max-prime", "5"]) == 2
    assert "cannot be sampled and trained" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resumed_run_keeps_its_engine(tmp_path, capsys):
    """The engine that a run began with is in its checkpoint: what the weights have become by then, and
    what the probe says of them, must not make it another run."""
    folder = odd_model(tmp_path / "model", "mistral", **SHAPE, sliding_window=300)
    runs = {}
    for name, steps in (("whole", ["4"]), ("half", ["2", "4"])):
        where = ["--run-dir", str(tmp_path / name), "--checkpoint-every", "2", "--quiet"]
        for number, total in enumerate(steps):
            flags = ["--resume"] if number else []
            asked = [*SHORT, "--model", str(folder), *where, "--total-steps", total, *flags]
            assert train.main(asked) == 0, capsys.readouterr().err
        log = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        runs[name] = [untimed(json.loads(line)) for line in log]
        last = tmp_path / name / "checkpoints" / "step_000004" / "trainer.json"
        assert json.loads(last.read_text())["engine"] == "plain"
    assert runs["whole"] == runs["half"]


def test_tiny_takes_the_engine_that_it_is_told(tmp_path):
    """And plays the same game with either."""
    logs = {}
    for engine in ("auto", "plain"):
        run = tmp_path / engine
        flags = [*SMALL_RUN, "--engine", engine, "--run-dir", str(run), "--quiet"]
        assert train.main(flags) == 0
        logs[engine] = (run / "problems.jsonl").read_text()
        state = json.loads((run / "checkpoints" / "step_000002" / "trainer.json").read_text())
        assert state["engine"] == {"auto": "shared", "plain": "plain"}[engine]
    first = [text.splitlines()[0] for text in logs.values()]
    assert first[0] == first[1]


# What is trained as it is sampled, whatever its config says of windows, experts or images.
TRAINED = {
    "window not in use": ("qwen2", SHAPE | dict(use_sliding_window=False, sliding_window=4)),
    "long window": ("gemma3_text", SHAPE | dict(head_dim=16, num_hidden_layers=7, sliding_window=4096)),
    "learned positions": ("gpt2", GPT2),
    "experts": ("mixtral", SHAPE | dict(num_local_experts=4)),
    "many experts": ("qwen3_moe", SHAPE | EXPERTS),
    "parallel layers": ("gpt_neox", dict(vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)),
    "images too": ("gemma3", dict(text_config=SHAPE | dict(head_dim=16, sliding_window=4096),
        vision_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14),
        mm_tokens_per_image=4)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINED)
def test_what_agrees_is_trained(tmp_path, capsys, kind):
    name, settings = TRAINED[kind]
    folder = odd_model(tmp_path / "model", name, **settings)
    assert said_of(capsys, folder) == (0, "")
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["sampling/logp_difference_max"] < 1e-4 and row["grad_norm"] > 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000001"
    assert AutoModelForCausalLM.from_pretrained(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_a_window_of_just_the_longest_sequence_is_none(tmp_path, kind):
    """One token less is one; and with just that window the model computes what it does without any."""
    long = odd_model(tmp_path / "long", kind, **SHAPE, sliding_window=4096, head_dim=16)
    length = longest_of(long)
    just = odd_model(tmp_path / "just", kind, **SHAPE, sliding_window=length, head_dim=16)
    policy, renderer, args = probed(just)
    prompts = longest_prompts(renderer, args)
    found = differences(policy, SharedEngine, prompts, args)
    without = load_policy(AZRArgs(model=str(long), **SMALL))
    assert found == differences(without, SharedEngine, prompts, args)
    assert policy.engine == "shared"
    # Many prompts that share their beginning are read in rows longer than the window.
    trainer = trainer_of(policy, replace(args, batch_size=12, n_attempts=2))
    metrics = trainer.step().metrics
    assert metrics["sampling/logp_difference_max"] < 1e-4 and metrics["grad_norm"] > 0
    less = odd_model(tmp_path / "less", kind, **SHAPE, sliding_window=length - 1, head_dim=16)
    policy, _, args = probed(less)
    assert policy.engine == "plain"
    assert f"window is {length - 1}, and " in shared_fault(policy, prompts, args)


def test_the_positions_that_are_needed_by_hand(tmp_path):
    """Of bytes, for which the longest prompt can be written down: the largest numbers, K references."""
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE | dict(max_position_embeddings=2048))
    _, renderer, args = probed(folder, n_references=3)
    every = [p for task in TASKS for p in all_problems(task, args.min_prime, args.max_prime)]
    most = {
        Role.SOLVER: max(len(renderer.solver(p).ids) for p in every),
        Role.PROPOSER: max(len(renderer.proposer(p.task, [p] * 3).ids) for p in every),
    }
    found = longest_prompts(renderer, args)
    assert len({(own.role, own.task) for own in found}) == 6
    for role, longest in most.items():
        assert max(len(own.ids) for own in found if own.role is role) == longest
    needed = max(most[Role.SOLVER] + 12, most[Role.PROPOSER] + 20)
    config = json.loads((folder / "config.json").read_text())
    for positions in (needed, needed - 1):
        config["max_position_embeddings"] = positions
        (folder / "config.json").write_text(json.dumps(config))
        if positions == needed:
            probed(folder, n_references=3)
    with pytest.raises(PolicyError, match=f"must have {needed} positions .* has {needed - 1};"):
        probed(folder, n_references=3)


def test_a_role_that_is_not_played_needs_no_room(tmp_path):
    """A solver's prompt and response fit 480 positions; a proposer's with 30 references do not."""
    folder = odd_model(tmp_path / "model", "gpt2", **GPT2 | dict(n_positions=480))
    args = AZRArgs(model=str(folder), **SMALL | dict(n_references=30))
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    fitted(policy, renderer, args, roles=(Role.SOLVER,))
    with pytest.raises(PolicyError, match="must have .* positions"):
        fitted(policy, renderer, args)


def test_a_fault_that_comes_with_length_is_seen(tmp_path):
    """Negative control of the lengths: a model that forgets what lies more than 300 tokens back, as no
    config says, passes with short prompts and fails with long ones."""
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    args = AZRArgs(model=str(folder), **SMALL)
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    inner = policy.model.model.forward

    def forgetting(length: int):
        def forward(input_ids=None, attention_mask=None, **others):
            if attention_mask is not None and attention_mask.dtype is torch.bool:  # of packed rows
                attention_mask = attention_mask & torch.ones_like(attention_mask).triu(-length)
            return inner(input_ids=input_ids, attention_mask=attention_mask, **others)

        return forward

    prompts = longest_prompts(renderer, args)
    policy.model.model.forward = forgetting(4096)
    assert max(differences(policy, SharedEngine, prompts, args).values()) < 1e-4
    policy.model.model.forward = forgetting(300)
    assert "the model itself differ by" in shared_fault(policy, prompts, args)
    fits, why = fitted(policy, renderer, args)  # its forward forgets nothing under a plain mask
    assert fits.engine == "plain" and "the model itself differ by" in why


def test_a_cap_that_the_weights_do_not_reach_yet_is_seen(tmp_path):
    """With logits of at most 0.1 a cap of 30 moves none of them by 1e-3 nats; training would."""
    capped = SHAPE | dict(head_dim=16, sliding_window=4096, final_logit_softcapping=30.0)
    args = AZRArgs(model=str(odd_model(tmp_path / "model", "gemma3_text", **capped)), **SMALL)
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(0.1)
    prompts = longest_prompts(renderer, args)
    assert max(differences(policy, SharedEngine, prompts, args).values()) < 1e-3
    fault = shared_fault(policy, prompts, args)
    assert fault == "its logits are more than its output layer's"


@torch.no_grad()
def test_the_model_itself_by_hand(tmp_path):
    """Token by token, each after a prefix of its own."""
    policy, renderer, args = probed(odd_model(tmp_path / "model", "qwen2", **SHAPE))
    prompt, response = renderer.solver(all_problems(TASKS[0], 5, 5)[0]).ids, (7, 30, 2, 99)
    asked = all_problems(TASKS[0], 5, 5)[0]
    rollout = Rollout(Role.SOLVER, TASKS[0], asked, prompt, response, (0.0,) * 4, "", False)
    found = logprobs_alone(policy.model, rollout)
    for place, token in enumerate(response):
        logits = policy.model(input_ids=torch.tensor([prompt + response[:place]])).logits[0, -1]
        assert found[place] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
