"""Models that would be sampled as one model and trained as another. Oracles: transformers' own forward
pass, and the arithmetic of prompt, response and window."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.odd_models import EXPERTS, GPT2, SHAPE, WORDS, odd_model, said_of
from helpers.trainers import trainer_of
from transformers import AutoModelForCausalLM

from custom_types import TASKS, Role, Rollout
from model.args import AZRArgs
from model.engine.probe import differences, plain_logprobs, require_trainable
from model.eval import baselines
from model.policy.limits import longest_prompts
from model.policy.load import PolicyError, load_policy
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer

SMALL = dict(max_prime=13, n_references=1, max_answer_tokens=12, max_proposal_tokens=20)


def probed(folder, **changes):
    """Policy, renderer and arguments; the model has passed the probe."""
    args = AZRArgs(model=str(folder), **SMALL | changes)
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    require_trainable(policy, renderer, args)
    return policy, renderer, args


def longest_of(folder) -> int:
    _, renderer, args = probed(folder)
    return max(len(own.ids) + own.max_tokens for own in longest_prompts(renderer, args))


# What cannot be trained: an architecture, and what is said of it.
REFUSED = {
    "logit scale": ("cohere", SHAPE | dict(num_key_value_heads=2), "logits are its output layer's"),
    "logit divisor": ("granite", SHAPE | dict(logits_scaling=2.0), "logits are its output layer's"),
    "soft cap": ("gemma2", SHAPE | dict(head_dim=16), "logits are its output layer's"),
    "alibi": ("bloom", dict(vocab_size=WORDS, hidden_size=32, n_layer=2, n_head=2), "cannot be sampled and trained"),
    "alibi, mask unread": ("mpt", dict(vocab_size=WORDS, d_model=32, n_layers=2, n_heads=2), "reads attention masks"),
    "state space": ("mamba", dict(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=8), "cannot be sampled and trained"),
    "linear attention": ("qwen3_next", SHAPE | EXPERTS | dict(
        num_hidden_layers=4, shared_expert_intermediate_size=16, linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=16, linear_value_head_dim=16), "cannot be sampled and trained"),
    "recurrence": ("rwkv", dict(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2), "cannot be sampled and trained"),
    "both directions": ("bert", SHAPE | dict(num_key_value_heads=2, max_position_embeddings=2048), "cannot be sampled and trained"),
    "local attention": ("gpt_neo", dict(vocab_size=WORDS, hidden_size=32, num_layers=2, num_heads=2,
        attention_types=[[["global", "local"], 1]]), "its attention window is 256"),
    "window": ("gemma3_text", SHAPE | dict(head_dim=16, sliding_window=512), "its attention window is 512"),
    "window, all layers": ("mistral", SHAPE | dict(sliding_window=300), "its attention window is 300"),
    "window, some layers": ("qwen2", SHAPE | dict(use_sliding_window=True, sliding_window=64, max_window_layers=1), "its attention window is 64"),
    "window, sinks": ("gpt_oss", SHAPE | dict(num_local_experts=4, head_dim=16), "its attention window is 128"),
    "chunks": ("llama4_text", SHAPE | dict(num_local_experts=2, head_dim=16, intermediate_size_mlp=48, attention_chunk_size=100), "its attention_chunk_size is 100"),
    "positions": ("gpt2", GPT2 | dict(n_positions=256), "and has 256; lower --max-answer-tokens"),
    "positions, rotary": ("llama", SHAPE | dict(max_position_embeddings=512), "and has 512; lower"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(tmp_path, capsys, kind):
    name, settings, reason = REFUSED[kind]
    status, said = said_of(capsys, odd_model(tmp_path / "model", name, **settings))
    assert status == 2 and said.startswith(f"--model {tmp_path / 'model'}: ") and reason in said


def test_baselines_refuse_it_too(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "granite", **SHAPE, logits_scaling=2.0)
    assert baselines.main(["--model", str(folder), "--max-prime", "5"]) == 2
    assert "logits are its output layer's" in capsys.readouterr().err


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
    """One token less is refused; and with that window the model computes what it does without one."""
    long = odd_model(tmp_path / "long", kind, **SHAPE, sliding_window=4096, head_dim=16)
    length = longest_of(long)
    just = odd_model(tmp_path / "just", kind, **SHAPE, sliding_window=length, head_dim=16)
    policy, renderer, args = probed(just)
    prompts = longest_prompts(renderer, args)
    found = differences(policy, prompts, args)
    assert found == differences(load_policy(AZRArgs(model=str(long), **SMALL)), prompts, args)
    # Many prompts that share their beginning are read in rows longer than the window.
    trainer = trainer_of(policy, replace(args, batch_size=12, n_attempts=2))
    metrics = trainer.step()
    assert metrics["sampling/logp_difference_max"] < 1e-4 and metrics["grad_norm"] > 0
    less = odd_model(tmp_path / "less", kind, **SHAPE, sliding_window=length - 1, head_dim=16)
    with pytest.raises(PolicyError, match=f"must see {length} tokens .* window is {length - 1};"):
        probed(less)


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
    require_trainable(policy, renderer, args, roles=(Role.SOLVER,))
    with pytest.raises(PolicyError, match="must have .* positions"):
        require_trainable(policy, renderer, args)


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
            if attention_mask is not None and attention_mask.dim() == 4:
                attention_mask = attention_mask & torch.ones_like(attention_mask).triu(-length)
            return inner(input_ids=input_ids, attention_mask=attention_mask, **others)

        return forward

    policy.model.model.forward = forgetting(4096)
    assert max(differences(policy, longest_prompts(renderer, args), args).values()) < 1e-4
    policy.model.model.forward = forgetting(300)
    with pytest.raises(PolicyError, match="the model itself differ by"):
        require_trainable(policy, renderer, args)


@torch.no_grad()
def test_the_plain_forward_by_hand(tmp_path):
    """Token by token, each after a prefix of its own."""
    policy, renderer, args = probed(odd_model(tmp_path / "model", "qwen2", **SHAPE))
    prompt, response = renderer.solver(all_problems(TASKS[0], 5, 5)[0]).ids, (7, 30, 2, 99)
    own = Rollout(Role.SOLVER, TASKS[0], None, prompt, response, (0.0,) * 4, "", False)
    found = plain_logprobs(policy.model, own)
    for place, token in enumerate(response):
        logits = policy.model(input_ids=torch.tensor([prompt + response[:place]])).logits[0, -1]
        assert found[place] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
