"""The controls of a study, in the real trainer. Oracle: which rows are there, and who is paid what."""

from collections import Counter

import pytest
import torch
from trainers import make_trainer, weights

from custom_types import CELLS, TASKS, Role, Verdict


def roles(trainer) -> set[Role]:
    return {item.rollout.role for item in trainer.scored}


def test_uniform_draws_problems_and_asks_no_proposer(warm_tiny):
    trainer = make_trainer(warm_tiny[0], proposer="uniform")
    before = len(trainer.problems)
    metrics = trainer.step()
    assert roles(trainer) == {Role.SOLVER} and len(trainer.scored) == 3 * 8 * 3
    assert len(trainer.problems) > before  # what is drawn is remembered
    for task in TASKS:
        assert metrics[f"valid_frac/{task}"] != metrics[f"valid_frac/{task}"]  # NaN: none proposed
        assert 0 <= metrics[f"solve_rate/{task}"] <= 1


def test_frozen_proposals_are_paid_but_never_trained_on(warm_tiny):
    trainer = make_trainer(warm_tiny[0], proposer="frozen")
    metrics = trainer.step()
    assert roles(trainer) == {Role.SOLVER}
    for task in TASKS:
        assert -1 <= metrics[f"reward/proposer_{task}"] <= 1
        assert 0 <= metrics[f"valid_frac/{task}"] <= 1


@pytest.mark.parametrize("proposer", ["self", "frozen"])
def test_proposer_rewards_move_weights_only_where_it_is_trained(warm_tiny, proposer):
    """Two runs that differ in what proposals earn, and in nothing else."""
    results = []
    for invalid_reward in (-0.5, 0.9):
        trainer = make_trainer(warm_tiny[0], proposer=proposer, invalid_reward=invalid_reward)
        trainer.step()
        results.append(weights(trainer))
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert same == (proposer == "frozen")


def test_grpo_compares_the_attempts_at_one_problem(warm_tiny):
    """Recomputed for every problem from the rows themselves: mean 0 in each group, and 0 where all
    attempts earned the same."""
    trainer = make_trainer(warm_tiny[0], advantage="grpo", batch_size=16, n_attempts=4)
    trainer.step()
    groups, answered = {}, Counter(item.rollout.problem for item in trainer.scored[48:])
    assert {item.rollout.role for item in trainer.scored[48:]} == {Role.SOLVER}
    for item, advantage in zip(trainer.scored, trainer.advantages, strict=True):
        alone = item.rollout.role is Role.PROPOSER or answered[item.rollout.problem] < 4
        key = item.rollout.cell if alone else item.rollout.problem
        groups.setdefault(key, []).append((item.reward, advantage))
    assert len(groups) > len(CELLS)
    for rows in groups.values():
        assert sum(advantage for _, advantage in rows) == pytest.approx(0, abs=1e-5)
        if len({reward for reward, _ in rows}) == 1:
            assert {advantage for _, advantage in rows} == {0.0}


def test_the_format_reward_pays_wrong_answers(warm_tiny):
    trainer = make_trainer(warm_tiny[0], reward="format", crowding_cost=0.0)
    trainer.step()
    paid = {item.verdict: item.reward for item in trainer.scored}
    assert paid[Verdict.WRONG] == 1 and paid.get(Verdict.VALID, 1) == 1
