"""Self-play learns, in earnest: the whole method on primes 5 and 7. Oracle: uniform legal guessing, whose
mean and standard deviation are sums over all 28 problems."""

import pytest
from helpers.trainers import make_trainer

from custom_types import TASKS
from model.args import AZRArgs
from model.eval.collapse import UnrelatedRewards
from model.eval.evaluator import Evaluator
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
from model.trainer import AZRTrainer
from prime_inversion import all_problems, guess_rate
from utils.string_formatting import PromptRenderer

SETTINGS = dict(
    max_prime=7,
    batch_size=32,
    n_attempts=4,
    minibatches=4,
    lr=2e-3,
    lr_warmup=0,
    warm_start_steps=30,
)
STEPS = 60
PROBLEMS = {task: all_problems(task, 5, 7) for task in TASKS}


def bound() -> float:
    """Greedy accuracy, the mean of the tasks, that uniform legal guessing exceeds by chance with less than
    1 in 10,000: its mean and 4 standard deviations. Each answer is right with its problem's guess rate g,
    of variance g (1 - g), independently: 0.321 + 4 * 0.081."""
    mean = variance = 0.0
    for own in PROBLEMS.values():
        rates = [guess_rate(problem, 5, 7) for problem in own]
        mean += sum(rates) / len(own) / 3
        variance += sum(rate * (1 - rate) for rate in rates) / len(own) ** 2 / 9
    return mean + 4 * variance**0.5


def accuracies(trainer_class=AZRTrainer, **changes) -> tuple[float, float]:
    """Before training and after 60 steps, from a policy that knows the format alone."""
    args = AZRArgs(**{**SETTINGS, **changes})
    policy = build_tiny(args.max_prime, args.seed)
    renderer = PromptRenderer.for_policy(policy, args)
    warm_start(policy, renderer, args)
    trainer = make_trainer(policy, trainer_class, **{**SETTINGS, **changes})
    evaluator = Evaluator(trainer.policy, renderer, args)

    def accuracy() -> float:
        everything = [problem for own in PROBLEMS.values() for problem in own]
        return evaluator.accuracy(everything)["eval/accuracy"]

    before = accuracy()
    for _ in range(STEPS):
        trainer.step()
    return before, accuracy()


def test_the_bound_by_hand():
    # Abduction and deduction: 4 problems guessed at 1/4 and 6 at 1/6. Induction: 3 with p = 5 and 5 with
    # p = 7, of two primes each, but for what both 5 and 7 answer: 6 * 6 = 36 is 1 modulo both.
    assert sum(map(len, PROBLEMS.values())) == 28
    assert bound() == pytest.approx(0.6447, abs=1e-4)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_sixty_steps_of_self_play_learn_what_guessing_does_not(seed):
    before, after = accuracies(seed=seed)
    assert before < bound() < after - 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "changes"),
    [(AZRTrainer, dict(lr=1e-9)), (UnrelatedRewards, dict())],
    ids=["no learning rate", "rewards of other problems"],
)
def test_without_a_gradient_or_with_rewards_of_other_problems_nothing_is_learned(
    trainer_class, changes
):
    """Negative control."""
    before, after = accuracies(trainer_class, **changes)
    assert before < bound() and after < bound()
    assert changes == {} or after == before
