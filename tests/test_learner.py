"""What a learner is given and what a step says of it. Oracles: the model itself, one whole sequence at a
time; the record of the step against the round that is in it; what an engine is handed.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from helpers.trainers import (
    flat_gradient,
    keep_weights,
    make_trainer,
    relative,
    untimed,
    weights,
    with_engine,
)

from buffer.base_buff import ReplayBuffer
from compute.metrics import round_metrics, token_count
from compute.objective import aggregate_tokens, compute_azr_objective
from compute.schedule import learning_rate
from custom_types import TASKS, Example, Rollout
from model.engine.shared import SharedEngine
from model.learner import Learner

# ---------------------------------------------------------------- the objective


def likelihood(new, old, advantages, mask, *, clip_low, clip_high, counts, **mean):
    """Supervised learning: the log-probability of what was sampled, whatever it earned."""
    _, measured = compute_azr_objective(new, old, advantages, mask, counts=counts, **mean)
    return aggregate_tokens(new, mask, **mean), measured


def unlikelihood(*logprobs_and_more, **settings):
    objective, measured = likelihood(*logprobs_and_more, **settings)
    return -objective, measured


def mean_logprob(model, rollouts: list[Rollout]) -> torch.Tensor:
    """Of their tokens, averaged over each response and then over responses, by the model itself."""
    means = []
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.response_ids])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        first = len(rollout.prompt_ids)
        chosen = logprobs[first - 1 : -1].gather(1, ids[0, first:, None])
        means.append(chosen.mean())
    return torch.stack(means).mean()


def learner_of(policy, objective, **changes):
    """A trainer whose learner climbs another objective and nothing else, and rollouts that it sampled."""
    trainer = make_trainer(
        policy, learner=partial(Learner, objective=objective), entropy_coef=0.0, **changes
    )
    return trainer, [item.rollout for item in trainer.rollout_phase().scored]


def test_the_gradient_is_that_of_the_objective_it_is_given(warm_tiny):
    """In float64: minus the gradient of the mean log-probability that the model itself computes."""
    trainer, rollouts = learner_of(warm_tiny[0], likelihood, minibatches=1, max_grad_norm=1e9)
    model = trainer.policy.model.double().eval()
    mean_logprob(model, rollouts).backward()
    expected = -flat_gradient(trainer)
    model.zero_grad()
    keep_weights(trainer)
    trainer.learner.learn(ReplayBuffer(rollouts, [0.0] * len(rollouts)), lr=1.0)
    assert relative(flat_gradient(trainer), expected) < 1e-6 and expected.norm() > 0.1


def test_a_learner_climbs_the_objective_it_is_given(warm_tiny):
    """Three learners from the same weights, on the same rollouts, with advantages that are all 0: one
    makes them likelier, one less likely, and the paper's objective has nothing to climb."""
    moved = {}
    for objective in (likelihood, unlikelihood, compute_azr_objective):
        trainer, rollouts = learner_of(warm_tiny[0], objective)
        with torch.no_grad():
            before = mean_logprob(trainer.policy.model.eval(), rollouts).item()
            for _ in range(3):
                with torch.enable_grad():
                    trainer.learner.learn(ReplayBuffer(rollouts, [0.0] * len(rollouts)), lr=1e-3)
            moved[objective] = mean_logprob(trainer.policy.model, rollouts).item() - before
        assert trainer.learner.updates == 3 * 4
    assert moved[likelihood] > 0.01 and moved[unlikelihood] < -0.01
    assert moved[compute_azr_objective] == 0


# ---------------------------------------------------------------- the record of a step


@pytest.mark.parametrize("proposer", ["self", "frozen"])
def test_a_steps_record_agrees_with_itself_and_with_the_trainer(warm_tiny, proposer):
    """Its metrics are those of the round that is in it, of the update, and of the trainer as it stands
    after it, and there are no others; a proposer that does not learn leaves the answers alone."""
    trainer, sampled = make_trainer(warm_tiny[0], proposer=proposer), 0
    for number in (1, 2):
        done = trainer.step()
        sampled += token_count(done.played.completions)
        expected = {
            "step": number,
            "num_tokens": sampled,
            **round_metrics(done.played, 5, 13),
            **{f"buffer/{task}": len(trainer.problems.problems(task)) for task in TASKS},
            **done.learned.metrics,
        }
        found = untimed(done.metrics)
        assert found.keys() == expected.keys()
        assert repr(found) == repr(expected)  # NaN equals itself as text
        assert done.metrics["learning_rate"] == trainer.learner.optimizer.param_groups[0]["lr"]
        assert trainer.learner.updates == 4 * number
        trained_on = done.played.scored if proposer == "self" else done.played.answers
        assert done.learned.scored == trained_on


class Watched(SharedEngine):
    """Keeps the examples that it is to make batches of."""

    def __init__(self, model, stop_ids, pad_id):
        super().__init__(model, stop_ids, pad_id)
        self.examples: list[Example] = []

    def batches(self, examples, max_tokens):
        self.examples += examples
        return super().batches(examples, max_tokens)


@pytest.mark.parametrize("proposer", ["self", "frozen"])
def test_what_the_record_says_was_trained_on_is_what_entered_the_update(warm_tiny, proposer):
    """Each rollout with its advantage, as often as the record has it; proposals at the flag's weight."""
    trainer = make_trainer(
        warm_tiny[0], learner=with_engine(Watched), proposer=proposer, proposer_weight=3.0
    )
    learned = trainer.step().learned
    told, weight = Counter(), Counter()
    for item, advantage in zip(learned.scored, learned.advantages, strict=True):
        key = item.rollout.prompt_ids, item.rollout.response_ids, advantage
        told[key] += 1
        weight[key] += 3.0 if item.rollout.role == "proposer" else 1.0
    examples = trainer.learner.engine.examples
    entered = {(e.rollout.prompt_ids, e.rollout.response_ids, e.advantage): e for e in examples}
    assert len(entered) == len(examples) == learned.metrics["examples"]
    assert {key: example.count for key, example in entered.items()} == told
    assert {key: example.weight for key, example in entered.items()} == weight


class Listener:
    """Stands for a learner that somebody else wrote, which does nothing but `learn`: what the trainer
    asks of one beyond that would be missing here."""

    def __init__(self, *_):
        self.heard = []

    def learn(self, replay, lr):
        self.heard.append((replay, lr))
        return {"heard": len(self.heard)}


def test_a_trainer_asks_its_learner_to_learn_and_nothing_else(warm_tiny):
    """The learning rate is that of the schedule, the metrics are handed on, and only a learner moves
    weights."""
    trainer = make_trainer(warm_tiny[0], learner=Listener, lr=0.01, lr_warmup=10)
    before = weights(trainer)
    for number in (1, 2):
        done = trainer.step()
        replay, lr = trainer.learner.heard[-1]
        assert lr == learning_rate(
            number, 0.01, 10, trainer.args.lr_hold, trainer.args.lr_half_life
        )
        assert done.metrics["heard"] == done.learned.metrics["heard"] == number
        assert sum(example.count for example in replay.examples) == len(done.learned.scored)
    assert all(map(torch.equal, before, weights(trainer)))
