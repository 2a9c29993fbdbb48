"""The policy gradient, exactly. Oracle: enumeration of every response in float64.

With raw rewards as advantages, ratio 1 and responses of one length, the gradient of the objective,
weighted by each response's probability, is the gradient of the expected reward:

    E[R ∇log π] = ∇ E[R]
"""

from itertools import product

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from compute.objective import compute_azr_objective
from model.inference import token_logprobs
from utils.mocks.mock_transformer import MockConfig, MockTransformer

VOCABULARY, LENGTH, PROMPT, TEMPERATURE = 4, 3, (2, 1), 0.8


def table_policy() -> torch.nn.Module:
    model = MockTransformer(MockConfig(vocab_size=VOCABULARY)).double()
    torch.manual_seed(0)
    model.table.data.normal_()
    return model


def qwen_policy() -> torch.nn.Module:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).double()


def every_response():
    """All 4^3 responses behind the prompt: ids, masks, and a reward for each."""
    responses = torch.tensor(list(product(range(VOCABULARY), repeat=LENGTH)))
    ids = torch.cat([torch.tensor([PROMPT]).expand(len(responses), -1), responses], 1)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, len(PROMPT) :] = True
    rewards = torch.randn(len(ids), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ids, mask, rewards


def gradient_of_expected_reward(model, ids, rewards) -> torch.Tensor:
    """An independent route: probabilities from the full logits, no masks, no objective."""
    logits = (model(input_ids=ids).logits / TEMPERATURE)[:, len(PROMPT) - 1 : -1]
    chosen = ids[:, len(PROMPT) :, None]
    probability = logits.softmax(-1).gather(-1, chosen).squeeze(-1).prod(1)
    assert probability.sum().item() == pytest.approx(1, abs=1e-12)
    return flat_gradient(model, (probability * rewards).sum())


def gradient_of_objective(model, ids, mask, rewards, *, sign=1.0, shift=0) -> torch.Tensor:
    """The objective's gradient, weighing response i by its probability. A response's mean over
    tokens is 1/LENGTH of its sum, so the weighted sum over sequences is multiplied by LENGTH."""
    scored = torch.roll(ids, shift, 1) if shift else ids
    logprobs, _ = token_logprobs(model, scored, torch.ones_like(mask), mask, TEMPERATURE)
    true, _ = token_logprobs(model, ids, torch.ones_like(mask), mask, TEMPERATURE)
    weights = true.sum(1).exp().detach()
    objective, extra = compute_azr_objective(
        logprobs, logprobs.detach(), sign * rewards * weights, mask, denominator=1
    )
    assert extra["ratio_max"].item() == 1
    return LENGTH * flat_gradient(model, objective)


def flat_gradient(model, value) -> torch.Tensor:
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in gradients if g is not None])


def exactness(model) -> float:
    """Float64 throughout for the table; a Qwen2 computes its norms in float32 whatever its dtype."""
    return 1e-12 if isinstance(model, MockTransformer) else 1e-6


def relative_difference(a, b) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(params=[table_policy, qwen_policy], ids=["table", "qwen2"])
def setting(request):
    model = request.param()
    ids, mask, rewards = every_response()
    return model, ids, mask, rewards, gradient_of_expected_reward(model, ids, rewards)


def test_the_objective_climbs_the_expected_reward(setting):
    model, ids, mask, rewards, expected = setting
    assert relative_difference(
        gradient_of_objective(model, ids, mask, rewards), expected
    ) < exactness(model)


def test_with_the_sign_flipped_it_does_not(setting):
    model, ids, mask, rewards, expected = setting
    wrong = gradient_of_objective(model, ids, mask, rewards, sign=-1.0)
    assert relative_difference(wrong, expected) == pytest.approx(2, rel=1e-5)


def test_with_the_stored_tokens_shifted_by_one_it_does_not(setting):
    model, ids, mask, rewards, expected = setting
    wrong = gradient_of_objective(model, ids, mask, rewards, shift=1)
    assert relative_difference(wrong, expected) > 0.1


def test_a_baseline_does_not_change_the_gradient(setting):
    """Metamorphic: the mean that advantages subtract is worth nothing in expectation."""
    model, ids, mask, rewards, expected = setting
    shifted = gradient_of_objective(model, ids, mask, rewards - 3.0)
    assert relative_difference(shifted, expected) < exactness(model)
