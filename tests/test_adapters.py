"""Low-rank adapters. Oracles: the model without them, and transformers' own loader."""

import copy

import pytest
import torch
from helpers.chat_models import save_model
from helpers.trainers import trainer_of
from test_cli import command, rows
from transformers import AutoModelForCausalLM

from model.args import AZRArgs
from model.policy.adapters import add_adapters, merged_weights
from model.policy.load import PolicyError, load_policy, load_pretrained

pytest.importorskip("peft", reason="pip install peft")

IDS = torch.arange(3, 23)[None]


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model")
    return tmp_path / "model"


def small(folder, **changes) -> AZRArgs:
    values = dict(batch_size=2, n_attempts=2, max_proposal_tokens=4, max_answer_tokens=4, lr=1e-2, lr_warmup=0)  # fmt: skip
    return AZRArgs(model=str(folder), **{**values, **changes})


def test_adapters_change_nothing_at_first_and_alone_are_trained(folder):
    plain = load_policy(small(folder)).model
    args = small(folder, lora_rank=4)
    policy = load_policy(args)
    torch.testing.assert_close(logits(policy.model), logits(plain), rtol=0, atol=1e-6)

    trainer = trainer_of(policy, args)
    before = copy.deepcopy(policy.model.state_dict())
    metrics = trainer.step().metrics
    after = policy.model.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert metrics["grad_norm"] > 0 and moved
    assert all(".lora_" in name for name in moved)
    # Rank 4 beside each linear layer of hidden 32, intermediate 48, 2 heads and 1 key head of 16:
    # q and o 32 -> 32, k and v 32 -> 16, gate and up 32 -> 48, down 48 -> 32; two layers.
    by_hand = 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48))
    assert sum(one.numel() for one in trainer.learner.trained) == by_hand


def test_the_merged_checkpoint_needs_no_adapters(folder, tmp_path):
    args = small(folder, lora_rank=4)
    policy = load_policy(args)
    trainer = trainer_of(policy, args)
    first = logits(policy.model)
    for _ in range(3):
        trainer.step()
    ours = logits(policy.model)
    policy.model.save_pretrained(tmp_path / "merged", state_dict=merged_weights(policy.model))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert set(loaded.state_dict()) == set(load_policy(small(folder)).model.state_dict())
    torch.testing.assert_close(logits(loaded), ours, rtol=0, atol=1e-5)
    assert (ours - first).abs().max() > 1e-2


def test_tied_weights_are_kept_once(folder, tmp_path):
    policy = load_policy(small(folder, lora_rank=4))
    policy.model.save_pretrained(tmp_path / "merged", state_dict=merged_weights(policy.model))
    sizes = [(one / "model.safetensors").stat().st_size for one in (tmp_path / "merged", folder)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_tiny_gets_adapters_too():
    args = AZRArgs(lora_rank=2, batch_size=2, n_attempts=2)
    trainer = trainer_of(load_policy(args), args)
    assert trainer.step().metrics["grad_norm"] > 0
    assert all(
        "lora_" in name
        for name, one in trainer.policy.model.named_parameters()
        if one.requires_grad
    )


def test_frozen_weights_of_16_bits_get_adapters_of_32(folder):
    model = load_pretrained(str(folder), torch.bfloat16).model
    add_adapters(model, 4)
    trained = {one.dtype for one in model.parameters() if one.requires_grad}
    frozen = {one.dtype for one in model.parameters() if not one.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})
    assert {weight.dtype for weight in merged_weights(model).values()} == {torch.float32}


@pytest.mark.slow
def test_the_command_trains_adapters(folder, tmp_path):
    result = command(
        "--model", "model", "--run-dir", "run", "--lora-rank", "2", "--total-steps", "1",
        "--eval-every", "1", "--batch-size", "2", "--n-references", "1", "--max-answer-tokens", "4",
        "--max-proposal-tokens", "4", "--max-prime", "13", "--eval-problems", "2", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "run" / "metrics.jsonl")[-1]["grad_norm"] is not None
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000001"
    assert AutoModelForCausalLM.from_pretrained(checkpoint).num_parameters() == (
        load_policy(small(folder)).model.num_parameters()
    )


def test_without_peft_the_sentence_says_what_to_install(folder, monkeypatch):
    # A mock: peft is installed wherever this test runs.
    monkeypatch.setattr("model.policy.load.package_folder", lambda name: None)
    with pytest.raises(PolicyError, match="--lora-rank 4: needs the package peft; pip install"):
        load_policy(small(folder, lora_rank=4))
