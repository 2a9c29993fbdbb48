"""A checkpoint of adapters is the model that was trained, on any architecture, or it is not written.
Oracles: transformers' own loader, and weights that are changed on purpose."""

import json

import pytest
import torch
from helpers.odd_models import EXPERTS, GPT2, SHAPE, SHORT, odd_model, said_of
from transformers import AutoModelForCausalLM

from model import train
from model.policy.adapters import AdapterError, add_adapters, merge_fault, merged_weights
from model.policy.load import load_pretrained
from model.run.checkpoints import Checkpoints

pytest.importorskip("peft", reason="pip install peft")

IDS = torch.arange(3, 23)[None]
HEADS = SHAPE | dict(num_key_value_heads=2)
MERGED = {
    "tied": ("qwen2", SHAPE | dict(tie_word_embeddings=True)),
    "transposed": ("gpt2", GPT2),
    "experts": ("mixtral", SHAPE | dict(num_local_experts=4)),
    "many experts": ("qwen3_moe", SHAPE | EXPERTS),
    "experts, other names": ("olmoe", HEADS | dict(num_experts=4, num_experts_per_tok=2)),
    "experts, sinks": ("gpt_oss", SHAPE | dict(num_local_experts=4, num_experts_per_tok=2, head_dim=16)),
    "experts beside layers": ("deepseek_v3", HEADS | dict(
        n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, q_lora_rank=8, kv_lora_rank=8,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_group=1, topk_group=1, first_k_dense_replace=1)),
    "joined projections": ("phi3", SHAPE),
}  # fmt: skip


def trained(model, std: float = 0.1):
    """Adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if ".lora_B." in name:
                own.copy_(torch.randn(own.shape, generator=generator) * std)
    return model


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", MERGED)
def test_what_a_checkpoint_holds_is_what_was_trained(tmp_path, kind):
    name, settings = MERGED[kind]
    folder = odd_model(tmp_path / "model", name, **settings)
    model = load_pretrained(str(folder)).model
    before = {key: own.clone() for key, own in model.state_dict().items()}
    first = logits(model)
    add_adapters(model, 4)
    assert torch.equal(logits(model), first)  # the rehearsal left nothing
    for key, own in model.state_dict().items():
        key = key.replace(".base_layer", "")
        assert torch.equal(own, before[key]) if ".lora_" not in key else True
    ours = logits(trained(model))
    weights = merged_weights(model)
    assert merge_fault(model, weights) is None
    assert torch.equal(logits(model), ours)
    assert {one.requires_grad for key, one in model.named_parameters() if ".lora_" in key} == {True}
    model.save_pretrained(tmp_path / "merged", state_dict=weights)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", output_loading_info=True
    )
    assert not any(report.values())
    torch.testing.assert_close(logits(loaded), ours, rtol=0, atol=1e-4)
    assert (ours - first).abs().max() > 0.1


@pytest.mark.slow
def test_experts_are_trained_and_kept(tmp_path, capsys):
    """By the command: adapters of experts have a gradient, and the checkpoint is whole."""
    folder = odd_model(tmp_path / "model", "mixtral", **SHAPE, num_local_experts=4)
    flags = ["--lora-rank", "2", "--lr", "1e-2", "--lr-warmup", "0"]
    assert said_of(capsys, folder, *flags)[0] == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000001"
    now, then = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (checkpoint, folder)
    )
    assert now.keys() == then.keys()
    moved = {key for key in now if not torch.equal(now[key], then[key])}
    assert "model.layers.0.mlp.experts.gate_up_proj" in moved
    assert "model.layers.1.self_attn.q_proj.weight" in moved
    assert train.main([*SHORT, "--resume", str(tmp_path / "run"), "--total-steps", "2"]) == 0


def test_what_cannot_be_merged_is_refused(tmp_path, capsys):
    """A layer whose weight its model reads by itself, past the adapters."""
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    model = load_pretrained(str(folder)).model
    past = model.model.layers[1].mlp
    past.forward = lambda x: torch.nn.functional.linear(x, past.gate_proj.weight)[..., :32]
    with pytest.raises(AdapterError, match="merged into the weights they are another model"):
        add_adapters(model, 4)
    jamba = SHAPE | dict(
        num_experts=2, attn_layer_offset=1, attn_layer_period=2, expert_layer_period=2,
        expert_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False,
    )  # fmt: skip
    state = odd_model(tmp_path / "other", "mamba", vocab_size=267, hidden_size=32, state_size=8, num_hidden_layers=1)  # fmt: skip
    for kind, settings in (("jamba", jamba), ("llama4_text", SHAPE | dict(head_dim=16))):
        odd_model(tmp_path / kind, kind, **settings)
    for path in (state, tmp_path / "jamba", tmp_path / "llama4_text"):
        status, said = said_of(capsys, path, "--lora-rank", "2")
        assert status == 2 and said.startswith(f"--lora-rank 2: must be 0 for --model {path}, ")


@pytest.mark.parametrize("kind", ["tied", "experts"])
def test_a_wrong_merge_is_seen(tmp_path, kind):
    """Negative controls: without the adapters, with half of them, in one layer of two, and broken."""
    name, settings = MERGED[kind]
    model = load_pretrained(str(odd_model(tmp_path, name, **settings))).model
    plain = {key: own.clone() for key, own in model.state_dict().items()}
    add_adapters(model, 4)
    weights = merged_weights(trained(model))
    changed = [key for key in weights if not torch.equal(weights[key], plain[key])]
    wrong = {
        "none": {key: plain[key] for key in weights},
        "half": {key: (own + plain[key]) / 2 for key, own in weights.items()},
        "one layer": weights | {key: plain[key] for key in changed if ".1." in key},
        "broken": weights | {changed[0]: weights[changed[0]] * torch.nan},
    }
    assert merge_fault(model, weights) is None
    for what, own in wrong.items():
        assert merge_fault(model, own) is not None, what


@pytest.mark.slow
def test_a_checkpoint_that_is_another_model_is_not_written(tmp_path, monkeypatch, capsys):
    """A mock stands for an architecture whose merge goes wrong later on: the run ends with the last good
    checkpoint."""
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    run = tmp_path / "run"
    flags = ["--lora-rank", "2", "--lr", "1e-2", "--lr-warmup", "0", "--checkpoint-every", "1"]
    right, calls = merged_weights, []

    def wrong_the_second_time(model):
        weights = right(model)
        calls.append(len(weights))
        if len(calls) == 2:
            weights["model.layers.0.mlp.up_proj.weight"] *= 2
        return weights

    monkeypatch.setattr("model.checkpoint.merged_weights", wrong_the_second_time)
    argv = [*SHORT, "--model", str(folder), "--run-dir", str(run), "--quiet", *flags]
    assert train.main([*argv, "--total-steps", "3"]) == 2
    said = capsys.readouterr().err
    assert "would not be the model with its adapters" in said and len(said.splitlines()) == 1
    assert f"the last good checkpoint is {run / 'checkpoints' / 'step_000001'}" in said
    assert Checkpoints(run / "checkpoints", 2).steps() == [1]
    assert not list((run / "checkpoints").glob(".*"))
    assert len(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])) > 10
