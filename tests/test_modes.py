"""Rollout, rescoring and update see one distribution, whatever a config drops at random. Oracles: a ratio
of 1 before the first optimizer step, and the gradient without recomputing."""

import pytest
import torch
from helpers.odd_models import EXPERTS, GPT2, SHAPE, odd_model
from helpers.trainers import flat_gradient, keep_weights, relative, trainer_of

from model.args import AZRArgs
from model.policy.load import load_policy, load_pretrained
from model.policy.modes import recompute_activations

DROPPING = {
    "residuals, attention, embeddings": ("gpt2", GPT2 | dict(n_layer=12, resid_pdrop=0.1, attn_pdrop=0.1, embd_pdrop=0.1)),
    "attention": ("qwen2", SHAPE | dict(attention_dropout=0.3)),
    "in the layer itself, and layers": ("opt", dict(vocab_size=267, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=2048, word_embed_proj_dim=32, dropout=0.2, layerdrop=0.5)),
    "after each part": ("gpt_neox", dict(vocab_size=267, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, hidden_dropout=0.2, attention_dropout=0.2)),
    "noise in the router": ("mixtral", SHAPE | dict(num_local_experts=4, router_jitter_noise=0.3, attention_dropout=0.2)),
    "experts": ("qwen3_moe", SHAPE | EXPERTS | dict(attention_dropout=0.2)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", DROPPING)
def test_what_is_dropped_at_random_takes_no_part(tmp_path, kind):
    """One optimizer step on what was sampled: the ratio of each token's probabilities is 1."""
    name, settings = DROPPING[kind]
    folder = odd_model(tmp_path, name, **settings)
    small = dict(
        batch_size=2, n_attempts=2, max_proposal_tokens=8, max_answer_tokens=8, max_prime=13
    )
    args = AZRArgs(model=str(folder), minibatches=1, **small)
    trainer = trainer_of(load_policy(args), args)
    metrics = trainer.step().metrics
    assert metrics["sampling/logp_difference_max"] < 1e-4
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-4) and metrics["grad_norm"] > 0
    metrics = trainer.learning_phase(trainer.rollout_phase()).metrics  # and after an update
    assert metrics["sampling/logp_difference_max"] < 1e-4


def test_the_configs_do_drop(tmp_path):
    """Negative control: in train mode passes differ, but for the router, whose noise has its own
    condition. Two of them may skip the same layers by chance, so there are nine, from one seed."""
    torch.manual_seed(0)
    ids = torch.arange(3, 40)[None]
    for number, (name, settings) in enumerate(DROPPING.values()):
        model = load_pretrained(str(odd_model(tmp_path / str(number), name, **settings))).model
        model.train()
        one, *others = (model(input_ids=ids).logits for _ in range(9))
        assert max(relative(other, one) for other in others) > 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "gemma3_text"])
def test_recomputing_changes_no_gradient(tmp_path, kind):
    """Against the same model without it, and with fewer tensors kept for the backward pass."""
    settings = GPT2 if kind == "gpt2" else SHAPE | dict(head_dim=16)
    folder, kept = odd_model(tmp_path, kind, **settings), []
    gradients = []
    for recomputing in (False, True):
        args = AZRArgs(model=str(folder), batch_size=2, n_attempts=2, max_prime=13, minibatches=1)
        policy = load_policy(args)
        policy = policy if recomputing else load_pretrained(str(folder))
        assert policy.model.is_activation_checkpointing == recomputing
        trainer = trainer_of(policy, args)
        keep_weights(trainer)
        played = trainer.rollout_phase()
        count = [0]

        def keep(tensor, count=count):
            count[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.learning_phase(played)
        kept.append(count[0])
        gradients.append(flat_gradient(trainer))
    assert relative(*gradients) < 1e-5 and gradients[0].norm() > 0
    assert kept[1] < kept[0]


def test_a_model_without_such_layers_is_left_alone():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    recompute_activations(model)
    assert model(torch.ones(1, 2)).shape == (1, 2)
