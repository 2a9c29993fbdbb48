"""Reward numbers. Oracles: the tables of the method, written out."""

from itertools import product
from math import nan

import pytest

from compute.reward import compute_r_propose, compute_r_total, solve_variance
from custom_types import Role, Verdict

PROPOSER, SOLVER = Role.PROPOSER, Role.SOLVER
MALFORMED, WRONG, CORRECT, INVALID, VALID = Verdict

# Eq. 4 of arXiv 2505.03335 with n = 8 attempts: 1 - r, but nothing for never and nothing for always.
LEARNABILITY = {0: 0.0, 1: 0.875, 2: 0.75, 3: 0.625, 4: 0.5, 5: 0.375, 6: 0.25, 7: 0.125, 8: 0.0}


@pytest.mark.parametrize("solved, reward", list(LEARNABILITY.items()))
def test_learnability_of_0_to_8_solved_of_8(solved, reward):
    assert compute_r_propose(solved / 8) == reward
    assert compute_r_total(PROPOSER, VALID, solved / 8) == reward


@pytest.mark.parametrize("solved, reward", list(LEARNABILITY.items()))
def test_extreme_reward_is_paid_for_never_and_always_alone(solved, reward):
    expected = -0.5 if solved in (0, 8) else reward  # the AZR code's switch
    assert compute_r_propose(solved / 8, extreme_reward=-0.5) == expected
    assert compute_r_total(PROPOSER, VALID, solved / 8, extreme_reward=-0.5) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 64])
def test_the_largest_learnability_is_one_solved_attempt(n):
    rewards = [compute_r_propose(solved / n) for solved in range(n + 1)]
    assert max(rewards) == (1 - 1 / n if n > 1 else 0)
    assert rewards[1:n] == sorted(rewards[1:n], reverse=True)  # harder pays more


REWARDS = {
    (SOLVER, CORRECT): 1.0,
    (SOLVER, WRONG): -0.5,
    (SOLVER, MALFORMED): -1.0,
    (PROPOSER, MALFORMED): -1.0,
    (PROPOSER, INVALID): -0.5,
    (PROPOSER, VALID): 0.75,  # solved in 2 of 8 attempts
}


@pytest.mark.parametrize("role, verdict", list(product(Role, Verdict)))
def test_every_role_and_verdict(role, verdict):
    solve_rate = 0.25 if verdict is VALID else None
    if (role, verdict) in REWARDS:
        assert compute_r_total(role, verdict, solve_rate) == REWARDS[role, verdict]
    else:  # a proposal is never CORRECT, an answer never VALID
        with pytest.raises(ValueError, match=f"{role}.*{verdict}"):
            compute_r_total(role, verdict, solve_rate)


@pytest.mark.parametrize("role, verdict", list(REWARDS))
def test_each_switch_moves_its_own_case_and_no_other(role, verdict):
    solve_rate = 0.25 if verdict is VALID else None
    paid = compute_r_total(role, verdict, solve_rate, invalid_reward=-1.0, extreme_reward=-0.5)
    assert paid == (-1.0 if verdict is INVALID else REWARDS[role, verdict])


@pytest.mark.parametrize("solve_rate", [-0.125, 1.125, 8, -1, nan, float("inf")])
def test_a_rate_that_is_no_share_is_refused(solve_rate):
    with pytest.raises(ValueError, match="solve_rate"):
        compute_r_propose(solve_rate)
    with pytest.raises(ValueError, match="solve_rate"):
        compute_r_total(PROPOSER, VALID, solve_rate)


def test_a_valid_proposal_without_a_solve_rate_is_refused():
    with pytest.raises(ValueError, match="solve rate"):
        compute_r_total(PROPOSER, VALID)


# r (1 - r) of n = 8 attempts, in 64ths: 1 * 7, 2 * 6, 3 * 5, 4 * 4 and back.
VARIANCE = {0: 0, 1: 7, 2: 12, 3: 15, 4: 16, 5: 15, 6: 12, 7: 7, 8: 0}


@pytest.mark.parametrize("solved, parts", list(VARIANCE.items()))
def test_the_variance_of_0_to_8_solved_of_8(solved, parts):
    """And what never and always solved problems earn is a flag of its own, as with learnability."""
    assert solve_variance(solved / 8) == parts / 64
    assert compute_r_total(PROPOSER, VALID, solved / 8, scheme="variance") == parts / 64
    paid = compute_r_total(PROPOSER, VALID, solved / 8, scheme="variance", extreme_reward=-0.5)
    assert paid == (parts / 64 or -0.5)


@pytest.mark.parametrize("role, verdict", list(REWARDS))
def test_the_control_schemes_pay_form_alone(role, verdict):
    """constant: as ever, but 1 for a valid proposal; format: 1 for every well-formed answer too."""
    solve_rate = 0.25 if verdict is VALID else None
    constant = {**REWARDS, (PROPOSER, VALID): 1.0}
    form = {**constant, (SOLVER, WRONG): 1.0}
    variance = {**REWARDS, (PROPOSER, VALID): 0.25 * 0.75}
    for scheme, table in (
        ("constant", constant),
        ("format", form),
        ("learnability", REWARDS),
        ("variance", variance),
    ):
        assert compute_r_total(role, verdict, solve_rate, scheme=scheme) == table[role, verdict]
    with pytest.raises(ValueError, match="scheme"):
        compute_r_total(role, verdict, solve_rate, scheme="none")


@pytest.mark.parametrize("role, verdict", list(REWARDS))
def test_an_alignment_is_paid_as_it_is(role, verdict):
    """Also 0, which no other switch touches; all else earns what it ever does."""
    for alignment in (-0.75, 0.0, 0.25):
        paid = compute_r_total(
            role,
            verdict,
            alignment if verdict is VALID else None,
            scheme="alignment",
            extreme_reward=-0.5,
        )
        assert paid == (alignment if verdict is VALID else REWARDS[role, verdict])
    if verdict is VALID:
        with pytest.raises(ValueError, match="solve rate"):
            compute_r_total(role, verdict, scheme="alignment")
