"""What the minibatches of an update owe each other: one denominator, and log-probabilities of the
weights before it. Oracles: the update in one piece, arithmetic in the comments, the rows themselves.
"""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.trainers import (
    flat_gradient,
    keep_weights,
    make_trainer,
    relative,
    weights,
    with_engine,
)
from test_replay import rollout

from buffer.base_buff import ReplayBuffer
from compute.objective import compute_azr_objective
from custom_types import Role, Round
from model.engine.shared import SharedEngine
from model.learner import Learner


def gradient_of_the_phase(policy, **changes) -> torch.Tensor:
    """Of one learning phase in float64, summed over its minibatches, at weights that stay."""
    trainer = make_trainer(policy, max_grad_norm=1e9, **changes)
    trainer.policy.model.double()
    played = trainer.rollout_phase()
    keep_weights(trainer)
    trainer.learning_phase(played)
    return flat_gradient(trainer)


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_each_of_n_minibatches_weighs_as_much_as_the_whole(warm_tiny, aggregate):
    """Each is a sum over an n-th of the rows, divided by an n-th of their number, so the gradients of
    four, at the same weights, add up to four times that of the whole: objective and bonus."""
    whole = gradient_of_the_phase(warm_tiny[0], minibatches=1, aggregate=aggregate)
    parts = gradient_of_the_phase(warm_tiny[0], minibatches=4, aggregate=aggregate)
    assert relative(parts, 4 * whole) < 1e-6
    assert relative(parts, whole) > 0.1 and whole.norm() > 1e-3  # or there was nothing to add up


def shifted(played: Round, nats: float) -> Round:
    """The same round, had its sampler found every token e^nats times as likely."""

    def moved(rollout):
        return replace(rollout, old_logprobs=tuple(one + nats for one in rollout.old_logprobs))

    def scored(item):
        return replace(item, rollout=moved(item.rollout))

    return replace(
        played,
        proposals=tuple(scored(item) for item in played.proposals),
        answers=tuple(scored(item) for item in played.answers),
        completions=tuple(map(moved, played.completions)),
    )


def learned_from(policy, nats: float, **changes) -> tuple[dict, list[torch.Tensor]]:
    trainer = make_trainer(policy, **changes)
    learned = trainer.learning_phase(shifted(trainer.rollout_phase(), nats))
    return learned.metrics, weights(trainer)


@pytest.mark.parametrize("minibatches", [1, 4])
@pytest.mark.parametrize("nats", [0.5, -0.5])
def test_the_samplers_logprobs_are_compared_and_train_nothing(warm_tiny, minibatches, nats):
    """Every minibatch starts from the training forward's own log-probabilities, so a sampler that is
    off changes no weight and none of the update's metrics. What compares the two says how far it is
    off: ratio e^-nats, KL estimate e^-nats - 1 + nats, difference |nats|."""
    metrics, after = learned_from(warm_tiny[0], nats, minibatches=minibatches)
    plain, expected = learned_from(warm_tiny[0], 0.0, minibatches=minibatches)
    assert all(map(torch.equal, after, expected))
    differ = {key for key in plain if metrics[key] != plain[key]}
    assert differ == {
        "sampling/ratio_max", "sampling/approx_kl", "sampling/logp_difference_max",
        "sampling/logp_difference_mean",
    }  # fmt: skip
    ratio = math.exp(-nats)
    assert metrics["sampling/ratio_max"] == pytest.approx(ratio, rel=1e-4)
    assert metrics["sampling/approx_kl"] == pytest.approx(ratio - 1 + nats, rel=1e-4)
    for key in ("max", "mean"):
        assert metrics[f"sampling/logp_difference_{key}"] == pytest.approx(0.5, rel=1e-4)


class OneLaterMinibatchShifted(SharedEngine):
    """The sampler of the rows in the second minibatch alone was off by a nat."""

    minibatches = 0

    def batches(self, examples, max_tokens):
        batches = super().batches(examples, max_tokens)
        self.minibatches += 1
        if self.minibatches == 2:
            batches = [replace(one, old_logprobs=one.old_logprobs - 1) for one in batches]
        return batches


def test_every_minibatch_is_compared_with_its_sampler(warm_tiny):
    learner = with_engine(OneLaterMinibatchShifted)
    metrics = make_trainer(warm_tiny[0], learner=learner, minibatches=4).step().metrics
    assert metrics["sampling/ratio_max"] == pytest.approx(math.e, rel=1e-3)


def warmer_scores(policy, args, accelerator) -> Learner:
    """Scores at twice the temperature that the trainer samples at."""
    return Learner(policy, replace(args, temperature=2 * args.temperature), accelerator)


class ShiftedScores(SharedEngine):
    """Scores each token by the logits of the token before."""

    def score(self, batch, temperature, floor=0.0):
        shifted = replace(batch, sources=(batch.sources - 1).clamp(min=0))
        return super().score(shifted, temperature, floor)


@pytest.mark.parametrize("minibatches", [1, 4])
@pytest.mark.parametrize(
    ("wrong", "changes"),
    [(warmer_scores, dict(temperature=0.5)), (with_engine(ShiftedScores), {})],
    ids=["colder sampler", "shifted scores"],
)
def test_a_sampler_or_scores_that_are_off_would_be_noticed(warm_tiny, wrong, changes, minibatches):
    """Negative controls of `test_the_ratio_is_one_before_the_first_update`: colder samples are likelier
    by their sampler, and shifted scores find all of them unlikely. The update's own ratio is 1 in its
    first minibatch even so."""
    trainer = make_trainer(warm_tiny[0], learner=wrong, minibatches=minibatches, **changes)
    metrics = trainer.step().metrics
    assert abs(math.log(metrics["sampling/ratio_max"])) > 0.1
    assert metrics["sampling/approx_kl"] > 1e-4
    assert metrics["sampling/logp_difference_max"] > 0.1
    if minibatches == 1:
        assert metrics["ratio_max"] == 1 and metrics["approx_kl"] == 0


def test_the_entropy_of_a_step_is_that_of_all_its_minibatches(warm_tiny):
    """The same rows and the same weights, in one piece or in four."""
    one, four = (make_trainer(warm_tiny[0], minibatches=n).step().metrics for n in (1, 4))
    for role in Role:
        assert four[f"entropy/{role}"] == pytest.approx(one[f"entropy/{role}"], rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_bonus_is_the_mean_entropy_by_weight(warm_tiny, weight):
    """By token, the loss with a bonus of 0.1 is 0.1 of the mean entropy below the one without: the mean
    over roles of their mean entropies, by their tokens and what these weigh."""
    losses = {}
    for coef in (0.0, 0.1):
        trainer = make_trainer(
            warm_tiny[0],
            minibatches=1,
            aggregate="token",
            entropy_coef=coef,
            proposer_weight=weight,
        )
        done = trainer.step()
        losses[coef] = done.metrics["loss"]
    total = count = 0.0
    for role in Role:
        rows = [item.rollout for item in done.learned.scored if item.rollout.role is role]
        tokens = sum(len(row.response_ids) for row in rows)
        tokens *= weight if role is Role.PROPOSER else 1
        total, count = total + tokens * done.metrics[f"entropy/{role}"], count + tokens
    assert losses[0.0] - losses[0.1] == pytest.approx(0.1 * total / count, rel=1e-4)


def test_every_setting_reaches_its_place_in_the_objective(warm_tiny):
    """Two answers of a token each, by hand. The first is good, 1.4 times as likely, below the clip at
    1.5: 1.4. The second is bad, 0.6 times as likely, held at the clip: -0.9. Weighing 2 and 3 they make
    2.8 - 2.7, over a weight of 5. The first stands for five sampled answers and the second for one, so of
    six tokens one is clipped."""

    def as_if_moved(new, old, advantages, mask, **settings):
        """The objective, had the weights moved that far since the answers were sampled."""
        ratios = torch.tensor([1.4, 0.6])[(advantages < 0).long(), None]
        return compute_azr_objective(
            new - new.detach() + old + ratios.log(), old, advantages, mask, **settings
        )

    trainer = make_trainer(
        warm_tiny[0], learner=partial(Learner, objective=as_if_moved), minibatches=1, clip_low=0.1,
        clip_high=0.5, entropy_coef=0.0,
    )  # fmt: skip
    good, bad = rollout((7,), (9,)), rollout((7,), (8,))
    replay = ReplayBuffer([good] * 5 + [bad], [1.0] * 5 + [-1.0], [0.4] * 5 + [3.0])
    metrics = trainer.learner.learn(replay, lr=0.0)
    assert metrics["loss"] == pytest.approx(-0.1 / 5, abs=2e-7)
    assert metrics["clip_ratio"] == pytest.approx(1 / 6)
    kl = (5 * (0.4 - math.log(1.4)) + (-0.4 - math.log(0.6))) / 6
    assert metrics["approx_kl"] == pytest.approx(kl, rel=1e-5)
