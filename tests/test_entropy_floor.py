"""The entropy that the bonus is paid for. Oracles: by hand, finite differences, the exact entropy."""

import math

import pytest
import torch
from helpers.trainers import make_trainer, weights

from model.engine.likelihood import ChoiceLikelihood, likelihood


@pytest.fixture(params=[likelihood, ChoiceLikelihood.apply], ids=["plain", "shared"])
def scored(request):
    """Of probabilities and a floor: entropy, entropy above the floor, and the latter's gradient by the
    logits; as each engine computes them."""

    def scored(probabilities: list[float], floor: float) -> tuple[float, float, torch.Tensor]:
        logits = torch.tensor([probabilities], dtype=torch.float64).log().requires_grad_()
        _, entropy, above = request.param(logits, torch.tensor([0]), 1.0, floor)
        (gradient,) = torch.autograd.grad(above.sum(), logits)
        return entropy.item(), above.item(), gradient[0]

    return scored


def test_it_is_that_of_the_choice_among_the_likely_tokens(scored):
    """0.6 and 0.2 of 0.8: three quarters and one; 49 others of 0.004 each count for nothing."""
    entropy, above, gradient = scored([0.6, 0.2, *[0.2 / 50] * 50], 0.01)
    assert above == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert entropy > above + 1
    assert (gradient[2:] == 0).all() and gradient[0] == pytest.approx(-gradient[1].item())


def test_a_sure_token_is_left_alone(scored):
    """The exact entropy pulls at it: its gradient is not 0, and over a whole vocabulary it is large."""
    sure = [0.98, *[0.02 / 1000] * 1000]
    assert scored(sure, 0.01)[1] == 0 and (scored(sure, 0.01)[2] == 0).all()
    assert scored(sure, 0.0)[2][0].item() < -0.1


def test_where_no_token_is_likely_it_is_zero_and_finite(scored):
    entropy, above, gradient = scored([0.0011, *[0.9989 / 999] * 999], 0.01)
    assert above == 0 and torch.isfinite(gradient).all() and entropy > 6


def test_without_a_floor_it_is_the_entropy(scored):
    entropy, above, _ = scored([0.5, 0.25, 0.25], 0.0)
    assert above == entropy == pytest.approx(1.5 * math.log(2))
    assert scored([0.5, 0.25, 0.25], 0.1)[1] == pytest.approx(entropy)


def test_an_update_takes_it_from_the_flag(warm_tiny):
    """At 0.5 hardly a token has company: the update is nearly the one without a bonus, and not the one
    with all of it."""
    steps = {
        floor: make_trainer(warm_tiny[0], minibatches=1, entropy_coef=coef, entropy_floor=floor)
        for floor, coef in ((0.0, 0.1), (0.5, 0.1), (0.25, 0.0))
    }
    losses = {floor: trainer.step().metrics["loss"] for floor, trainer in steps.items()}
    assert losses[0.5] == pytest.approx(losses[0.25], abs=1e-5) != losses[0.0]
    whole, floored, none = ([w.clone() for w in weights(one)] for one in steps.values())
    assert not all(map(torch.equal, whole, floored))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(floored, none, strict=True))
