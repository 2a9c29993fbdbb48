"""How the trainer wires an update: each setting does what it says, in a real step.

Oracles: arithmetic, metamorphic pairs, a spy optimizer, recomputation from the rows.
"""

from dataclasses import replace

import pytest
import torch
from helpers.trainers import (
    EqualPay,
    flat_gradient,
    keep_weights,
    make_trainer,
    relative,
    weights,
    without_refill,
)

from buffer.base_buff import ReplayBuffer
from compute.schedule import learning_rate
from custom_types import TASKS, Example, Problem, Role, TaskType, Verdict


def entropy_after(policy, coef: float) -> float:
    """Mean proposer and solver entropy in the second step, when the first had nothing but the bonus to
    climb: all rewards are equal, and nothing costs."""
    trainer = make_trainer(policy, EqualPay, entropy_coef=coef, lr_warmup=0, crowding_cost=0.0)
    first = trainer.step()
    assert set(first.learned.advantages) == {0.0}
    metrics = trainer.step().metrics
    entropy = metrics["entropy/solver"] + metrics["entropy/proposer"]
    assert (first.metrics["grad_norm"] > 0) == (coef > 0)
    return entropy


def test_the_entropy_bonus_raises_entropy(warm_tiny):
    with_bonus, without = (entropy_after(warm_tiny[0], coef) for coef in (0.1, 0.0))
    assert with_bonus > without + 0.05


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sampling_and_scoring_use_the_same_temperature(warm_tiny, temperature):
    metrics = make_trainer(warm_tiny[0], temperature=temperature).step().metrics
    assert metrics["sampling/logp_difference_max"] < 1e-4


def test_the_learning_rate_by_hand():
    """Rises by 0.08 a step to 0.8, holds to step 60, then halves every 40 steps."""
    expected = {1: 0.08, 5: 0.4, 10: 0.8, 60: 0.8, 100: 0.4, 140: 0.2}
    for step, rate in expected.items():
        found = learning_rate(step, peak=0.8, warmup=10, hold=60, half_life=40.0)
        assert found == pytest.approx(rate)
    assert learning_rate(1, peak=0.8, warmup=0, hold=60, half_life=0.0) == 0.8
    assert learning_rate(1000, peak=0.8, warmup=0, hold=60, half_life=0.0) == 0.8


def test_the_optimizer_gets_that_learning_rate(warm_tiny):
    trainer = make_trainer(warm_tiny[0], lr=0.01, lr_warmup=10)
    trainer.step()
    assert trainer.learner.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_gradients_are_clipped_to_the_norm(warm_tiny):
    """With plain SGD at lr 1 the weights move by the clipped gradient itself."""
    trainer = make_trainer(warm_tiny[0], minibatches=1, max_grad_norm=1e-3, lr=1.0, lr_warmup=0)
    trainer.learner.optimizer = torch.optim.SGD(trainer.policy.model.parameters(), lr=1.0)
    before = weights(trainer)
    metrics = trainer.step().metrics
    moved = torch.cat([(b - a).flatten() for a, b in zip(before, weights(trainer), strict=True)])
    assert metrics["grad_norm"] > 1e-2
    assert moved.norm().item() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("side", ["clip_low", "clip_high"])
def test_each_clip_reaches_the_objective(warm_tiny, side):
    """With no room on one side, every token that drifts there is clipped."""
    wide = dict(clip_low=1.0, clip_high=100.0, lr_warmup=0, minibatches=4)
    free = make_trainer(warm_tiny[0], **wide).step().metrics["clip_ratio"]
    tight = make_trainer(warm_tiny[0], **{**wide, side: 0.0}).step().metrics["clip_ratio"]
    assert free == 0 < tight


def test_the_aggregate_reaches_the_objective(warm_tiny):
    """Two one-minibatch steps from the same weights and rows: rewards are equal but for one long
    proposal, whose tokens weigh more by token than by sequence, so the gradients differ."""
    norms = {
        aggregate: make_trainer(warm_tiny[0], aggregate=aggregate, minibatches=1, entropy_coef=0.0)
        .step()
        .metrics["grad_norm"]
        for aggregate in ("sequence", "token")
    }
    assert abs(norms["token"] / norms["sequence"] - 1) > 0.01


def test_what_is_answered_is_remembered(warm_tiny):
    """After one step a problem's running rate is its first answers' by hand: 0.9 r + 0.1 c each."""
    trainer = without_refill(warm_tiny[0], batch_size=32, n_attempts=4)
    rates = {}
    for item in trainer.step().learned.scored:
        if item.rollout.role is Role.SOLVER:
            old = rates.get(item.rollout.problem, 0.0)
            correct = item.verdict is Verdict.CORRECT
            rates[item.rollout.problem] = 0.9 * old + 0.1 * correct
    rows = trainer.problems.state_dict()["problems"]
    kept = {(task, *problem): rate for task, *problem, rate, _ in rows}
    assert any(rates.values())
    for task in TASKS:
        for problem in trainer.problems.problems(task):
            remembered = kept[str(task), problem.x, problem.y, problem.p]
            assert remembered == pytest.approx(rates.get(problem, 0.0))


def test_rows_keep_their_order_whatever_the_microbatches(warm_tiny):
    """So neither what is logged nor how minibatches are drawn depends on lengths."""
    rows = []
    for tokens in (10**6, 64):
        scored = make_trainer(warm_tiny[0], microbatch_tokens=tokens).step().learned.scored
        rows.append([(i.rollout.role, i.rollout.task, i.rollout.text) for i in scored])
    assert rows[0] == rows[1]
    assert [role for role, *_ in rows[0]] == sorted(role for role, *_ in rows[0])


def test_a_proposal_weighs_what_the_flag_says(warm_tiny):
    """With a negligible weight the update is that of the answers alone; with one answer's weight it
    is not."""
    gradients = {}
    for weight in (1e-9, 1.0, None):
        trainer = make_trainer(
            warm_tiny[0], proposer_weight=weight or 1.0, minibatches=1, aggregate="token"
        )
        played = trainer.rollout_phase()
        if weight is None:
            played = replace(played, proposals=())
        keep_weights(trainer)
        trainer.learning_phase(played)
        gradients[weight] = flat_gradient(trainer)
    alone = gradients[None]
    assert relative(gradients[1e-9], alone) < 1e-5
    assert relative(gradients[1.0], alone) > 0.01


def test_merging_equal_rows_keeps_the_gradient(warm_tiny, monkeypatch):
    """The plain path, one row for each rollout, in float64."""
    gradients = []
    for merged in (True, False):
        trainer = make_trainer(warm_tiny[0], minibatches=1, batch_size=16, n_attempts=8)
        trainer.policy.model.double()
        played = trainer.rollout_phase()
        keep_weights(trainer)
        if not merged:
            monkeypatch.setattr("model.trainer.ReplayBuffer", PlainReplay)
        learned = trainer.learning_phase(played)
        assert (learned.metrics["examples"] < len(learned.scored)) == merged
        gradients.append(flat_gradient(trainer))
    assert relative(*gradients) < 1e-6


class PlainReplay(ReplayBuffer):
    def __init__(self, rollouts, advantages, weights):
        rows = zip(rollouts, advantages, weights, strict=True)
        self.examples = [Example(*row) for row in rows]


def test_shared_triples_are_known_to_every_task(warm_tiny):
    for shared in (True, False):
        trainer = make_trainer(warm_tiny[0], batch_size=32, share_triples=shared)
        before = {task: set(trainer.problems.problems(task)) for task in TASKS}
        trainer.step()
        added = {
            (p.x, p.y, p.p, task)
            for task in TASKS
            for p in set(trainer.problems.problems(task)) - before[task]
        }
        twins = {
            (x, y, p, task) in added or Problem(task, x, y, p) in before[task]
            for x, y, p, _ in added
            for task in TASKS
            if not (task is TaskType.INDUCTION and x == y == 1)
        }
        assert twins == ({True} if shared else {True, False})
