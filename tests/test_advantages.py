"""Task-relative advantages. Oracles: arithmetic in the comments, and metamorphic pairs."""

import pytest
import torch

from compute.advantages import attempt_groups, compute_advantages
from custom_types import (
    CELLS,
    Problem,
    Role,
    Rollout,
    Scored,
    TaskType,
    Verdict,
    cell_index,
)


def test_by_hand():
    # Cell 0: rewards 1, 0, 0, 1 have mean 1/2 and variance 4 * (1/4) / 3 = 1/3: +-(1/2) / sqrt(1/3).
    # Cell 4: rewards -1, 1 have mean 0 and variance 2 / 1: +-1 / sqrt(2).
    rewards = torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, 1.0])
    cells = torch.tensor([0, 4, 0, 0, 4, 0])
    a, b = 0.5 * 3**0.5, 0.5**0.5
    assert compute_advantages(rewards, cells).tolist() == pytest.approx(
        [a, -b, -a, -a, b, a], rel=1e-6
    )


@pytest.mark.parametrize("reward", [0.1, -0.5, 1 / 3, 1e-30])
def test_constant_cells_and_singletons_get_exactly_zero(reward):
    """0.1 summed 64 times does not average to 0.1 in floating point: an epsilon would not do."""
    rewards = torch.tensor([reward] * 63 + [7.0])
    cells = torch.tensor([2] * 63 + [5])
    assert compute_advantages(rewards, cells).tolist() == [0.0] * 64


def test_costs_are_taken_after_normalising():
    """Cell 0 as above: +-0.866. Costs 0.3, 0.1, 0, 0 have mean 0.1 and leave -0.2, 0, 0.1, 0.1. Cell 4
    has equal rewards: only its small costs are left, as small as they are."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5])
    cells = torch.tensor([0, 0, 0, 0, 4, 4])
    costs = torch.tensor([0.3, 0.1, 0.0, 0.0, 0.02, 0.0])
    a = 0.5 * 3**0.5
    wanted = [a - 0.2, -a, -a + 0.1, a + 0.1, -0.01, 0.01]
    assert compute_advantages(rewards, cells, costs=costs).tolist() == pytest.approx(wanted)


def test_equal_costs_change_nothing():
    """They say nothing about which response was better: to the last bit, in every mode."""
    rewards, cells = torch.tensor([1.0, 0.2, 0.4, 0.4]), torch.tensor([0, 0, 1, 1])
    for options in (
        dict(),
        dict(mode="global"),
        dict(mode="grpo", groups=torch.tensor([0, 0, -1, -1])),
    ):
        plain = compute_advantages(rewards, cells, **options)
        costs = torch.tensor([0.1, 0.1, 0.7, 0.7])
        assert torch.equal(compute_advantages(rewards, cells, costs=costs, **options), plain)


def test_permuting_rows_permutes_advantages():
    generator = torch.Generator().manual_seed(0)
    rewards, cells = (
        torch.randn(60, generator=generator),
        torch.randint(6, (60,), generator=generator),
    )
    order = torch.randperm(60, generator=generator)
    shuffled = compute_advantages(rewards[order], cells[order])
    torch.testing.assert_close(shuffled, compute_advantages(rewards, cells)[order])


def test_shifting_and_scaling_a_cell_changes_nothing_anywhere():
    generator = torch.Generator().manual_seed(1)
    rewards, cells = (
        torch.randn(60, generator=generator),
        torch.randint(6, (60,), generator=generator),
    )
    moved = torch.where(cells == 3, 5 * rewards - 2, rewards)
    torch.testing.assert_close(compute_advantages(moved, cells), compute_advantages(rewards, cells))


def test_one_cell_does_not_see_another():
    """Negative control of cell-wise normalisation: one global cell gives other numbers."""
    rewards, cells = torch.tensor([1.0, 0.0, 9.0, 5.0]), torch.tensor([0, 0, 1, 1])
    apart = compute_advantages(rewards, cells)
    assert apart.tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)] * 2)
    assert (apart - compute_advantages(rewards, torch.zeros(4, dtype=torch.long))).abs().max() > 0.5


def test_cell_numbers_are_three_role_plus_task():
    roles, tasks = list(Role), list(TaskType)
    numbers = {
        cell_index(role, task): 3 * roles.index(role) + tasks.index(task) for role, task in CELLS
    }
    assert numbers == {n: n for n in range(6)}


@pytest.mark.parametrize(
    ("rewards", "cells", "message"),
    [
        ([1.0, 2.0], [0], "must be"),
        ([1.0, float("nan")], [0, 0], "finite"),
        ([1.0, 2.0], [0, 6], "0..5"),
    ],
)
def test_bad_input_is_refused(rewards, cells, message):
    with pytest.raises(ValueError, match=message):
        compute_advantages(torch.tensor(rewards), torch.tensor(cells))


def test_global_is_one_cell_for_all():
    # Rewards 1, 0, 9, 6: mean 4, deviations -3, -4, 5, 2, variance (9 + 16 + 25 + 4) / 3 = 18.
    rewards, cells = torch.tensor([1.0, 0.0, 9.0, 6.0]), torch.tensor([0, 0, 1, 1])
    expected = [d / 18**0.5 for d in (-3, -4, 5, 2)]
    assert compute_advantages(rewards, cells, mode="global").tolist() == pytest.approx(expected)


def test_grpo_is_by_group_and_by_cell_where_there_is_none():
    # Group 0 holds 1 and -0.5, group 1 two equal rewards, and cell 0 its own 0 and 0.5.
    rewards = torch.tensor([1.0, 1.0, -0.5, 1.0, 0.0, 0.5])
    cells, groups = torch.tensor([3, 3, 3, 3, 0, 0]), torch.tensor([0, 1, 0, 1, -1, -1])
    expected = [0.5**0.5, 0, -(0.5**0.5), 0, -(0.5**0.5), 0.5**0.5]
    computed = compute_advantages(rewards, cells, mode="grpo", groups=groups).tolist()
    assert computed == pytest.approx(expected)


@pytest.mark.parametrize("options", [{"mode": "ppo"}, {"mode": "grpo"}, {"groups": torch.zeros(2)}])
def test_modes_and_their_groups_are_checked(options):
    with pytest.raises(ValueError, match="mode"):
        compute_advantages(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), **options)


@pytest.mark.parametrize(
    ("n_attempts", "groups"),
    [(1, [-1, 0, 0, 0, 1]), (2, [-1, 0, 0, 0, -1]), (3, [-1, 0, 0, 0, -1]), (4, [-1] * 5)],
)
def test_groups_are_problems_with_at_least_n_answers(n_attempts, groups):
    """2 4 7 has three answers, and a proposal after it as its reference, which is no answer; 3 5 7 has
    one, which with n = 1 is a group too."""
    asked, other = Problem(TaskType.DEDUCTION, 2, 4, 7), Problem(TaskType.DEDUCTION, 3, 5, 7)
    rows = [(Role.PROPOSER, asked), *[(Role.SOLVER, asked)] * 3, (Role.SOLVER, other)]
    scored = [
        Scored(Rollout(role, p.task, p, (1,), (2,), (0.0,), "", True), Verdict.CORRECT, 1.0)
        for role, p in rows
    ]
    assert attempt_groups(scored, n_attempts).tolist() == groups


def test_a_cost_is_compared_within_its_cell_whatever_rewards_are_compared_within():
    """Costs 0.2 and 0.4 in cell 0, 0 and 0.6 in cell 3: less their cells' means -0.1, 0.1, -0.3, 0.3, and
    with the minus sign added to advantages of 0. By group, or over all, they would be others."""
    rewards, cells = torch.zeros(4), torch.tensor([0, 0, 3, 3])
    costs, groups = torch.tensor([0.2, 0.4, 0.0, 0.6]), torch.tensor([-1, -1, 0, 1])
    for options in (dict(), dict(mode="global"), dict(mode="grpo", groups=groups)):
        found = compute_advantages(rewards, cells, costs=costs, **options)
        assert found.tolist() == pytest.approx([0.1, -0.1, 0.3, -0.3]), options


def test_a_group_is_never_taken_for_a_cell():
    """Groups 0 to 5 beside rows of cells 0 to 5 that have none: each of them is alone, or in a pair."""
    rewards = torch.tensor([1.0, 3.0, 5.0, 7.0, 100.0, 104.0])
    cells, groups = torch.tensor([3, 3, 4, 4, 0, 0]), torch.tensor([0, 0, 3, 3, -1, -1])
    found = compute_advantages(rewards, cells, mode="grpo", groups=groups).tolist()
    assert found == pytest.approx([-(0.5**0.5), 0.5**0.5] * 3)
