"""`ChoiceLikelihood`, and `HiddenLikelihood` behind an output layer. Oracles: the same by autograd in plain
torch, finite differences, exact arithmetic in float64."""

import math

import pytest
import torch
from helpers.trainers import relative
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from model.engine.likelihood import ChoiceLikelihood, HiddenLikelihood, OutputLayer, product

FLOORS = [0.0, 0.02, 0.5]


def plain(logits: torch.Tensor, targets: torch.Tensor, temperature: float, floor: float):
    """All three, every table under autograd."""
    logprobs = (logits.to(torch.float64) / temperature).log_softmax(-1)
    bar = logprobs.amax(-1, keepdim=True).clamp(max=math.log(floor) if floor else -math.inf)
    among = torch.where(logprobs >= bar, logprobs, -math.inf).log_softmax(-1)
    above = -torch.where(among.isinf(), 0, among.exp() * among.nan_to_num()).sum(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy, above


def drawn(rows: int, words: int, spread: float, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(rows, words, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, words, (rows,), generator=generator)
    by = torch.randn(2, rows, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), targets, by


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("rows, words, spread", [(5, 7, 2.0), (64, 3000, 4.0)])
def test_values_and_gradient_are_those_of_plain_autograd(rows, words, spread, temperature, floor):
    logits, targets, by = drawn(rows, words, spread)
    ours = ChoiceLikelihood.apply(logits, targets, temperature, floor)
    wanted = plain(logits, targets, temperature, floor)
    for own, other in zip(ours, wanted, strict=True):
        assert torch.allclose(own, other, rtol=1e-10, atol=1e-12)
    for weights in (by, by * torch.tensor([[1.0], [0.0]]), by * torch.tensor([[0.0], [1.0]])):
        gradients = [
            torch.autograd.grad((w[0] * weights[0] + w[2] * weights[1]).sum(), logits, retain_graph=True)[0]
            for w in (ours, wanted)
        ]  # fmt: skip
        own, other = gradients
        assert (own - other).norm() <= 1e-11 * max(other.norm(), 1)


@pytest.mark.parametrize("used", [(0,), (2,), (0, 2)])
@pytest.mark.parametrize("floor", FLOORS)
def test_the_gradient_is_that_of_finite_differences_whichever_results_are_used(used, floor):
    logits, targets, _ = drawn(4, 9, 1.5)

    def results(logits):
        values = ChoiceLikelihood.apply(logits, targets, 0.8, floor)
        return tuple(values[index] for index in used)

    assert torch.autograd.gradcheck(results, logits)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_narrow_logits_are_widened_and_their_gradient_is_narrow(dtype, tolerance):
    logits, targets, by = drawn(16, 500, 3.0, dtype)
    logprob, entropy, above = ChoiceLikelihood.apply(logits, targets, 1.0, 0.01)
    assert {logprob.dtype, entropy.dtype, above.dtype} == {torch.float32}
    (by[0] * logprob + by[1] * above).sum().backward()
    exact = logits.detach().double().requires_grad_()
    wanted, _, wanted_above = plain(exact, targets, 1.0, 0.01)
    (by[0] * wanted + by[1] * wanted_above).sum().backward()
    assert torch.allclose(logprob.double(), wanted, rtol=1e-5)
    assert logits.grad.dtype == dtype and relative(logits.grad, exact.grad) < tolerance


def test_the_entropy_has_no_gradient():
    logits, targets, _ = drawn(3, 5, 1.0)
    assert not ChoiceLikelihood.apply(logits, targets, 1.0, 0.0)[1].requires_grad


def test_far_logits_stay_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, -1e30]], requires_grad=True)
    logprob, entropy, above = ChoiceLikelihood.apply(logits, torch.tensor([2, 0]), 1.0, 0.01)
    (logprob.sum() + above.sum()).backward()
    assert logprob.tolist() == [-2e4, pytest.approx(-math.log(2))]
    assert entropy.tolist() == [0, pytest.approx(math.log(2))]
    assert torch.isfinite(logits.grad).all()


def test_over_many_words_float32_is_exact_to_its_last_digits():
    """Where the target is nearly sure, the gradient is short, and an error of the sum shows."""
    logits, targets, _ = drawn(64, 49_152, 2.0, torch.float32)
    with torch.no_grad():
        logits[torch.arange(64), targets] += 16
    ChoiceLikelihood.apply(logits, targets, 1.0, 0.0)[0].sum().backward()
    exact = logits.detach().double().requires_grad_()
    plain(exact, targets, 1.0, 0.0)[0].sum().backward()
    other = logits.detach().requires_grad_()
    other.log_softmax(-1).gather(-1, targets[:, None]).sum().backward()
    assert relative(logits.grad, exact.grad) < 1e-5 < relative(other.grad, exact.grad)


def test_probabilities_sum_to_one_at_every_temperature():
    logits, _, _ = drawn(8, 100, 3.0)
    words = torch.arange(100)
    for temperature in (0.3, 1.0, 2.0):
        each = ChoiceLikelihood.apply(logits[0].expand(100, -1), words, temperature, 0.0)[0]
        assert each.exp().sum().item() == pytest.approx(1)


# ---------------------------------------------------------------- behind an output layer


def factors(dtype=torch.float64):
    """hidden (6, 5), weight (9, 5), bias (9,), targets (6,)."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((6, 5), (9, 5), (9,))
    )
    return hidden, weight, bias, torch.randint(0, 9, (6,), generator=generator)


@pytest.mark.parametrize("floor", FLOORS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_gradient_of_hidden_weight_and_bias_is_that_of_finite_differences(
    with_bias, temperature, floor
):
    hidden, weight, bias, targets = factors()

    def results(hidden, weight, bias):
        bias = bias if with_bias else None
        found = HiddenLikelihood.apply(hidden, weight, bias, targets, temperature, floor)
        return found[0], found[2]

    wanted = plain(hidden @ weight.T + with_bias * bias, targets, temperature, floor)
    for own, other in zip(results(hidden, weight, bias), wanted[::2], strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(results, (hidden, weight, bias))


def test_what_is_frozen_has_no_gradient():
    """A weight beside adapters: its gradient would be as large as it is."""
    hidden, weight, _, targets = factors()
    asked = HiddenLikelihood.apply(hidden, weight.detach(), None, targets, 1.0, 0.0)[0]
    asked.sum().backward()
    assert hidden.grad is not None and weight.grad is None
    asked = HiddenLikelihood.apply(hidden.detach(), weight, None, targets, 1.0, 0.0)[0]
    asked.sum().backward()
    assert weight.grad is not None


def small_model(**settings) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, **settings,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_(std=4.0)  # logits of up to about 100
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_narrow_factors_are_exact_in_float32(dtype):
    """Under autocast, and of weights that are narrow themselves: the product of the rounded factors, as
    float64 computes it. The layer itself rounds it once more."""
    model = small_model().to(dtype)
    hidden = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = hidden.bfloat16().double() @ model.lm_head.weight.bfloat16().double().T
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
        ours, theirs = OutputLayer(model).logits(hidden), model.lm_head(hidden)
    assert ours.dtype is torch.float32 and theirs.dtype is torch.bfloat16
    assert (ours - exact).abs().max() < 1e-4 < 0.05 < (theirs - exact).abs().max()


def test_float32_logits_and_gradients_are_those_of_the_layer_to_the_last_bit():
    """As long as nothing is rounded, nothing changes."""
    model = small_model()
    targets = torch.arange(20)
    found = []
    for ours in (True, False):
        hidden = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model.zero_grad()
        if ours:
            values = OutputLayer(model).likelihood(hidden, targets, 1.0, 0.01)
        else:
            values = ChoiceLikelihood.apply(model.lm_head(hidden), targets, 1.0, 0.01)
        (values[0].sum() + 0.1 * values[2].sum()).backward()
        found.append([*values, hidden.grad, model.lm_head.weight.grad.clone()])
    assert all(map(torch.equal, *found))


def test_under_autocast_weights_get_float32_gradients_close_to_exact_ones():
    model, targets = small_model(), torch.arange(20)
    with torch.no_grad():
        model.lm_head.weight.div_(20)
    hidden = torch.randn(20, 64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        OutputLayer(model).likelihood(hidden, targets, 1.0, 0.0)[0].sum().backward()
    exact = hidden.detach().double().requires_grad_()
    weight = model.lm_head.weight.detach().double().requires_grad_()
    plain(exact @ weight.T, targets, 1.0, 0.0)[0].sum().backward()
    for own, other in ((hidden, exact), (model.lm_head.weight, weight)):
        assert own.grad.dtype is torch.float32 and relative(own.grad, other.grad) < 0.01


def test_an_output_layer_that_is_more_than_one_is_called_as_it_is():
    class Doubled(nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    model = small_model(tie_word_embeddings=False)
    weight, targets = model.lm_head.weight, torch.arange(20)
    model.lm_head = Doubled(64, 300, bias=False)
    model.lm_head.weight = weight
    hidden = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    logits = 2 * product(hidden, weight, None)
    output = OutputLayer(model)
    torch.testing.assert_close(output.logits(hidden), logits)
    wanted = ChoiceLikelihood.apply(logits, targets, 0.7, 0.0)
    for own, other in zip(output.likelihood(hidden, targets, 0.7, 0.0), wanted, strict=True):
        torch.testing.assert_close(own, other)
