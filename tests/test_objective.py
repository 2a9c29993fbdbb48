"""The clipped objective. Oracles: arithmetic in the comments, metamorphic pairs, negative controls."""

import math

import pytest
import torch

from compute.objective import aggregate_tokens, compute_azr_objective

E = 0.2


def one_token(ratio: float, advantage: float, **options) -> tuple[float, float]:
    """Objective and its gradient with respect to the new log-probability of a single token."""
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value, _ = compute_azr_objective(
        new,
        torch.zeros(1, 1).double(),
        torch.tensor([advantage]).double(),
        torch.tensor([[True]]),
        **options,
    )
    value.backward()
    return value.item(), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [
        (1.0, 2.0, 2.0, 2.0),  # no drift: A, and dρ/dlogp = ρ = 1
        (1.0, -2.0, -2.0, -2.0),
        (1.1, 2.0, 2.2, 2.2),  # inside the clip: Aρ
        (1.5, 2.0, 2.4, 0.0),  # good and already likelier: held at A * 1.2
        (0.5, 2.0, 1.0, 1.0),  # good and less likely: pulled back
        (0.5, -2.0, -1.6, 0.0),  # bad and already less likely: held at A * 0.8
        (1.5, -2.0, -3.0, -3.0),  # bad and likelier: pushed down, unclipped
    ],
)
def test_every_sign_and_clip_case(ratio, advantage, value, gradient):
    assert one_token(ratio, advantage) == pytest.approx((value, gradient))


def test_the_upper_clip_is_its_own_switch():
    assert one_token(1.25, 1.0, clip_high=0.28) == pytest.approx((1.25, 1.25))
    assert one_token(1.25, 1.0) == pytest.approx((1.2, 0.0))


def example():
    """Three responses of 1, 2 and 4 tokens, drifted, with junk outside the mask."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]).bool()
    old = -torch.rand(3, 6, generator=generator).double()
    new = (old + 0.3 * torch.randn(3, 6, generator=generator)).detach()
    return new, old, torch.tensor([1.0, -0.5, 2.0]).double(), mask


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_aggregation_by_definition(aggregate):
    new, old, advantages, mask = example()
    terms = []
    for row in range(3):
        ratios = [math.exp(new[row, t] - old[row, t]) for t in range(6) if mask[row, t]]
        a = advantages[row].item()
        terms.append([min(a * r, a * min(max(r, 1 - E), 1 + E)) for r in ratios])
    if aggregate == "sequence":
        expected = sum(sum(row) / len(row) for row in terms) / 3
    else:
        expected = sum(map(sum, terms)) / 7
    value, _ = compute_azr_objective(new, old, advantages, mask, aggregate=aggregate)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_nothing_outside_the_mask_matters(junk):
    new, old, advantages, mask = example()
    results = []
    for fill in (0.0, junk):
        leaf = new.masked_fill(~mask, fill).requires_grad_()
        value, extra = compute_azr_objective(leaf, old.masked_fill(~mask, fill), advantages, mask)
        value.backward()
        results.append((value.item(), leaf.grad.tolist(), {k: v.item() for k, v in extra.items()}))
    assert results[0] == results[1]
    assert results[0][1][0][0] == 0


@pytest.mark.parametrize(("aggregate", "count"), [("sequence", 3), ("token", 7)])
def test_uneven_parts_with_the_global_denominator_equal_the_whole(aggregate, count):
    new, old, advantages, mask = example()

    def value_and_gradient(parts, **options):
        leaf = new.clone().requires_grad_()
        values = [
            compute_azr_objective(
                leaf[p], old[p], advantages[p], mask[p], aggregate=aggregate, **options
            )[0]
            for p in parts
        ]
        sum(values).backward()
        return sum(values).item(), leaf.grad

    whole = value_and_gradient([slice(0, 3)])
    split = value_and_gradient([slice(0, 1), slice(1, 3)], denominator=count)
    assert split[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(split[1], whole[1])
    # Negative control: the mean of each part's own mean is another number.
    wrong = value_and_gradient([slice(0, 1), slice(1, 3)])
    assert abs(wrong[0] / 2 - whole[0]) > 0.01


def test_an_empty_response_counts_for_nothing():
    new, old, advantages, mask = example()
    padded = [torch.cat([x, x[:1]]) for x in (new, old, advantages)]
    padded_mask = torch.cat([mask, torch.zeros(1, 6).bool()])
    with_row, _ = compute_azr_objective(*padded, padded_mask)
    assert with_row.item() == compute_azr_objective(new, old, advantages, mask)[0].item()
    leaf = new.clone().requires_grad_()
    nothing, _ = compute_azr_objective(leaf, old, advantages, torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0 and (leaf.grad == 0).all()


def test_diagnostics_by_hand():
    # Ratios 1, 2, 0.5 with A = 1, 1, -1. The second and third are clipped: 2 of 3.
    # approx_kl = mean(ρ - 1 - ln ρ) = (0 + (1 - ln 2) + (-0.5 + ln 2)) / 3 = 0.5 / 3.
    new = torch.tensor([[0.0], [math.log(2)], [-math.log(2)]], dtype=torch.float64)
    _, extra = compute_azr_objective(
        new,
        torch.zeros(3, 1).double(),
        torch.tensor([1.0, 1, -1]).double(),
        torch.ones(3, 1).bool(),
    )
    assert extra["clip_ratio"].item() == pytest.approx(2 / 3)
    assert extra["approx_kl"].item() == pytest.approx(0.5 / 3)
    assert extra["ratio_max"].item() == pytest.approx(2)


def test_weights_of_a_response_in_the_two_aggregates():
    # Values 6 and (0, 3): by sequence (6 + 1.5) / 2, by token 9 / 3.
    values, mask = torch.tensor([[6.0, 9.0], [0.0, 3.0]]), torch.tensor([[1, 0], [1, 1]]).bool()
    assert aggregate_tokens(values, mask, "sequence").item() == 3.75
    assert aggregate_tokens(values, mask, "token").item() == 3
    with pytest.raises(ValueError, match="mean"):
        aggregate_tokens(values, mask, "mean")


def test_shapes_are_checked():
    new, old, advantages, mask = example()
    for bad in (
        (new[:, :5], old, advantages, mask),
        (new, old, advantages[:2], mask),
        (new, old, advantages, mask.int()),
    ):
        with pytest.raises(ValueError):
            compute_azr_objective(*bad)


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_a_weight_is_so_many_equal_rows(aggregate):
    """Metamorphic: weights and counts 3 and 1 against the first row written three times. Weights alone
    are another matter: diagnostics are means over sampled tokens, whatever they weigh."""
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 2, 5, generator=generator)
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool()
    advantages, times = torch.tensor([1.5, -0.5]), [0, 0, 0, 1]
    times_three = torch.tensor([3.0, 1.0])
    weighted, extra = compute_azr_objective(
        new, old, advantages, mask, aggregate=aggregate, weights=2 * times_three, counts=times_three
    )
    written_out, extra_out = compute_azr_objective(
        new[times], old[times], advantages[times], mask[times], aggregate=aggregate
    )
    assert weighted.item() == pytest.approx(written_out.item(), rel=1e-6)
    for key in ("approx_kl", "clip_ratio", "ratio_max", "tokens"):
        assert extra[key].item() == pytest.approx(extra_out[key].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "removed"),
    [(1.5, 1, True), (1.5, -1, False), (0.5, -1, True), (0.5, 1, False), (1.1, 1, False), (0.9, -1, False)],
)  # fmt: skip
def test_a_token_counts_as_clipped_where_its_gradient_is_removed(ratio, advantage, removed):
    """And not where it lies outside the clip but is still pulled back, as a good token below it is."""
    new = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    value, extra = compute_azr_objective(
        new, torch.zeros(1, 1).double(), torch.tensor([advantage]).double(), torch.tensor([[True]])
    )
    value.backward()
    assert extra["clip_ratio"].item() == removed == (new.grad.item() == 0)


def test_the_divergence_is_estimated_token_by_token():
    """One token of ratio 2: 2 - 1 - ln 2 = 0.307. The ratio less 1 alone would be 1, its logarithm alone
    -0.693, and the divergence of the other direction 1/2 - 1 + ln 2 = 0.193."""
    zero, mask = torch.zeros(1, 1).double(), torch.tensor([[True]])
    _, extra = compute_azr_objective(zero + math.log(2), zero, torch.ones(1).double(), mask)
    assert extra["approx_kl"].item() == pytest.approx(1 - math.log(2))


def test_diagnostics_are_of_response_tokens_by_their_counts():
    """A response of 1 token that was sampled three times and one of 2, of ratios 1/2 and 1/4, 1: in a
    denominator and with weights of another scale. Outside the mask both are equally likely, which is
    nobody's ratio: where every response token is half as likely the largest is 1/2."""
    ratios = torch.tensor([[0.5, 1.0], [0.25, 1.0]], dtype=torch.float64)
    mask, counts = torch.tensor([[True, False], [True, True]]), torch.tensor([3.0, 1.0]).double()
    settings = dict(denominator=0.01, weights=torch.tensor([0.1, 7.0]).double(), counts=counts)
    old, advantages = torch.zeros(2, 2).double(), torch.tensor([-1.0, -1.0]).double()
    for aggregate in ("sequence", "token"):
        _, extra = compute_azr_objective(
            ratios.log(), old, advantages, mask, aggregate=aggregate, **settings
        )
        assert extra["tokens"].item() == 3 * 1 + 1 * 2
        kl = 3 * (-0.5 + math.log(2)) + (-0.75 + math.log(4)) + 0
        assert extra["approx_kl"].item() == pytest.approx(kl / 5)
        assert extra["clip_ratio"].item() == pytest.approx((3 + 1) / 5)
        assert extra["ratio_max"].item() == 1
    halves = torch.full_like(ratios, math.log(0.5))
    _, extra = compute_azr_objective(halves, old, advantages, mask, **settings)
    assert extra["ratio_max"].item() == 0.5
