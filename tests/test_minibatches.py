"""What the minibatches of an update owe each other: one denominator, and log-probabilities of the
weights before it. Oracles: the update in one piece, arithmetic in the comments, the rows themselves.
"""

import math
from dataclasses import replace

import pytest
import torch
from helpers.trainers import flat_gradient, make_trainer, relative, weights
from test_replay import rollout

from buffer.base_buff import collate
from custom_types import Example, Role, Round
from model.trainer import AZRTrainer


def gradient_of_the_phase(policy, **changes) -> torch.Tensor:
    """Of one learning phase in float64, summed over its minibatches, at weights that stay."""
    trainer = make_trainer(policy, max_grad_norm=1e9, **changes)
    trainer.policy.model.double()
    played = trainer.rollout_phase()
    trainer.optimizer.step = trainer.optimizer.zero_grad = lambda: None
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
        proposals=tuple((scored(item), problem) for item, problem in played.proposals),
        answers=tuple(scored(item) for item in played.answers),
        completions=tuple(map(moved, played.completions)),
    )


def learned_from(policy, nats: float, **changes) -> tuple[dict, list[torch.Tensor]]:
    trainer = make_trainer(policy, **changes)
    metrics = trainer.learning_phase(shifted(trainer.rollout_phase(), nats))
    return metrics, weights(trainer)


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
    }  # fmt: skip
    ratio = math.exp(-nats)
    assert metrics["sampling/ratio_max"] == pytest.approx(ratio, rel=1e-4)
    assert metrics["sampling/approx_kl"] == pytest.approx(ratio - 1 + nats, rel=1e-4)
    assert metrics["sampling/logp_difference_max"] == pytest.approx(0.5, rel=1e-4)


class OneLaterMinibatchShifted(AZRTrainer):
    """The sampler of the rows in the second minibatch alone was off by a nat."""

    parts = 0

    def _packed(self, examples):
        packed = super()._packed(examples)
        self.parts += 1
        if self.parts == 2:
            packed = [replace(one, old_logprobs=one.old_logprobs - 1) for one in packed]
        return packed


def test_every_minibatch_is_compared_with_its_sampler(warm_tiny):
    metrics = make_trainer(warm_tiny[0], OneLaterMinibatchShifted, minibatches=4).step()
    assert metrics["sampling/ratio_max"] == pytest.approx(math.e, rel=1e-3)


class ColderSampler(AZRTrainer):
    """Samples at another temperature than it scores at."""

    def _rollout(self, policy, prompts):
        scoring, self.args = self.args, replace(self.args, temperature=0.5)
        sampled = super()._rollout(policy, prompts)
        self.args = scoring
        return sampled


class ShiftedScores(AZRTrainer):
    """Scores each token by the logits of the token before."""

    def _score(self, part):
        return super()._score(replace(part, sources=(part.sources - 1).clamp(min=0)))


@pytest.mark.parametrize("minibatches", [1, 4])
@pytest.mark.parametrize("wrong", [ColderSampler, ShiftedScores])
def test_a_sampler_or_scores_that_are_off_would_be_noticed(warm_tiny, wrong, minibatches):
    """Negative controls of `test_the_ratio_is_one_before_the_first_update`: colder samples are likelier
    by their sampler, and shifted scores find all of them unlikely. The update's own ratio is 1 in its
    first minibatch even so."""
    metrics = make_trainer(warm_tiny[0], wrong, minibatches=minibatches).step()
    assert abs(math.log(metrics["sampling/ratio_max"])) > 0.1
    assert metrics["sampling/approx_kl"] > 1e-4
    assert metrics["sampling/logp_difference_max"] > 0.1
    if minibatches == 1:
        assert metrics["ratio_max"] == 1 and metrics["approx_kl"] == 0


def test_the_entropy_of_a_step_is_that_of_all_its_minibatches(warm_tiny):
    """The same rows and the same weights, in one piece or in four."""
    one, four = (make_trainer(warm_tiny[0], minibatches=n).step() for n in (1, 4))
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
        losses[coef] = (metrics := trainer.step())["loss"]
    total = count = 0.0
    for role in Role:
        rows = [item.rollout for item in trainer.scored if item.rollout.role is role]
        tokens = sum(len(row.response_ids) for row in rows)
        tokens *= weight if role is Role.PROPOSER else 1
        total, count = total + tokens * metrics[f"entropy/{role}"], count + tokens
    assert losses[0.0] - losses[0.1] == pytest.approx(0.1 * total / count, rel=1e-4)


def test_every_setting_reaches_its_place_in_the_objective(warm_tiny):
    """Two answers of a token each, by hand. The first is good, 1.4 times as likely, below the clip at
    1.5: 1.4. The second is bad, 0.6 times as likely, held at the clip: -0.9. Weighing 2 and 3 they make
    2.8 - 2.7. The first stands for five sampled answers and the second for one, so of six tokens one is
    clipped."""
    trainer = make_trainer(warm_tiny[0], clip_low=0.1, clip_high=0.5)
    rows = [
        [Example(rollout((7,), (9,)), 1.0, weight=2.0, count=5)],
        [Example(rollout((7,), (8,)), -1.0, weight=3.0, count=1)],
    ]
    batch, ratios = collate(rows, pad_id=0), torch.tensor([[1.4], [0.6]])
    value, extra = trainer._objective(
        batch.old_logprobs + ratios.log(), batch, aggregate="sequence", denominator=1,
        weights=batch.weights,
    )  # fmt: skip
    assert value.item() == pytest.approx(0.1, abs=1e-6)
    assert extra["tokens"].item() == 6 and extra["clip_ratio"].item() == pytest.approx(1 / 6)
    kl = (5 * (0.4 - math.log(1.4)) + (-0.4 - math.log(0.6))) / 6
    assert extra["approx_kl"].item() == pytest.approx(kl, rel=1e-5)
