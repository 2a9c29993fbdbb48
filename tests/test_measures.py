"""By what proposals are paid with `--reward alignment`. Oracles: cosines by hand; the model itself, one
whole sequence at a time; finite differences; a run that was not interrupted."""

import copy
import shutil

import pytest
import torch
from helpers.run_contents import SMALL, assert_equal_runs, done_here
from helpers.trainers import make_trainer, relative, weights

from buffer.base_buff import ReplayBuffer
from compute.reward import compute_r_total, compute_solve_rates
from custom_types import Judged, Problem, Role, Rollout, TaskType, Verdict
from model import measures
from model.args import AZRArgs
from model.flags import ArgumentError
from model.measures import Alignment, SolveRates

ONE, OTHER, THIRD = (Problem(TaskType.DEDUCTION, x, y, 7) for x, y in ((2, 4), (3, 5), (6, 6)))


def attempt(problem: Problem, verdict: Verdict, word: int) -> Judged:
    rollout = Rollout(Role.SOLVER, problem.task, problem, (1,), (word,), (0.0,), "", True)
    return Judged(rollout, verdict)


class LinearLearner:
    """log π(word) = weight[word]: its gradient has each advantage at the attempt's word, over their
    number. Three weights."""

    def __init__(self):
        self.trained = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(2))]

    def gradient(self, replay: ReplayBuffer) -> torch.Tensor:
        found = torch.zeros(3)
        for example in replay.examples:
            found[example.rollout.response_ids[0]] += example.advantage * example.weight
        return found / replay.count("sequence")

    def move(self, *by: float) -> None:
        with torch.no_grad():
            self.trained[0] += torch.tensor(by[:1])
            self.trained[1] += torch.tensor(by[1:])


ATTEMPTS = [
    attempt(ONE, Verdict.CORRECT, 0),  # rewards 1 and -0.5: advantages 0.75 and -0.75
    attempt(ONE, Verdict.WRONG, 1),
    attempt(OTHER, Verdict.WRONG, 0),
    attempt(OTHER, Verdict.CORRECT, 2),
    attempt(THIRD, Verdict.WRONG, 0),  # all the same: no direction
    attempt(THIRD, Verdict.WRONG, 2),
]


@pytest.mark.parametrize(
    ("moved", "one", "other"),
    [
        ((3, 0, 4), 1, 1 / 3),  # cosines 3 and 1, each over 5 √2
        ((-1, 0, 0), -1, 1),
        ((1, -1, 0), 1, -1 / 2),
        ((0, 2, 1), -1, 1 / 2),
        ((0, 0, 2), 0, 1),
        ((0, 0, 0), 0, 0),
    ],
)
def test_alignment_by_hand(moved, one, other):
    """The gradient of ONE points along (1, -1, 0), that of OTHER along (-1, 0, 1), both √2 long: beside
    the larger of their dot products with the movement, that is what each is paid."""
    learner = LinearLearner()
    alignment = Alignment(learner)
    learner.move(5, 5, 5)  # an earlier step
    assert alignment.of([], {}) == {}  # a step without proposals
    learner.move(*moved)
    found = alignment.of(ATTEMPTS, {})
    assert found == {ONE: pytest.approx(one), OTHER: pytest.approx(other), THIRD: 0}


def test_before_anything_has_moved():
    assert set(Alignment(LinearLearner()).of(ATTEMPTS, {}).values()) == {0}


def test_three_rewards_and_lengths_by_hand():
    """1, -0.5 and -1 have the mean -1/6: advantages 7/6, -1/3, -5/6 in the words 0, 1, 2, so along
    (1, 0, 0) the cosine is 7 / √(49 + 4 + 25), beside 1 / √2 of ONE, whose gradient is shorter."""
    learner = LinearLearner()
    alignment = Alignment(learner)
    learner.move(1, 0, 0)
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.MALFORMED]
    third = [attempt(THIRD, verdict, word) for word, verdict in enumerate(verdicts)]
    found = alignment.of([*ATTEMPTS[:2], *third], {})
    assert found[THIRD] == 1 and found[ONE] == pytest.approx(0.5**0.5 / (7 / 78**0.5))


def test_the_state_is_all_it_needs():
    learner = LinearLearner()
    alignment = Alignment(learner)
    learner.move(1, 0, 0)
    alignment.of([], {})
    other = Alignment(learner)
    learner.move(1, -2, 0)
    other.load_state_dict(copy.deepcopy(alignment.state_dict()))
    found = alignment.of(ATTEMPTS, {})
    assert other.of(ATTEMPTS, {}) == found and found[OTHER] == pytest.approx(-1 / 3)


# ---------------------------------------------------------------- a real network


def earned(model, attempts: list[Judged]) -> torch.Tensor:
    """The mean over attempts of (R - R̄) times the mean log-probability of their tokens, by the model
    itself: what the gradient is the gradient of."""
    rewards = torch.tensor(
        [compute_r_total(item.rollout.role, item.verdict) for item in attempts],
        dtype=torch.float64,
    )
    found = []
    for item in attempts:
        prompt, response = item.rollout.prompt_ids, item.rollout.response_ids
        ids = torch.tensor([prompt + response])
        logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
        found.append(logprobs[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).mean())
    return ((rewards - rewards.mean()) * torch.stack(found)).mean()


@pytest.fixture(scope="module")
def trained(warm_tiny):
    """A trainer in float64 after 3 steps, what it asked for in its fourth, and what it was told."""
    trainer = make_trainer(
        warm_tiny[0], reward="alignment", eval_uniform=False, n_attempts=6, batch_size=32
    )
    trainer.policy.model.double()
    trainer.measure = Alignment(trainer.learner)
    for _ in range(3):
        trainer.step()
    movement = torch.cat([w.flatten() for w in weights(trainer)]) - trainer.measure.before
    asked, measure = [], trainer.measure.of

    def of(attempts, solve_rates):
        asked.extend(attempts)
        return measure(attempts, solve_rates)

    trainer.measure.of = of
    played = trainer.rollout_phase()
    return trainer, movement, asked, played


def test_the_gradient_is_that_of_the_model_itself(trained):
    trainer, _, asked, _ = trained
    rates = compute_solve_rates(asked)
    model = trainer.policy.model
    (problem, *_) = [one for one, rate in rates.items() if 0 < rate < 1]
    attempts = [item for item in asked if item.rollout.problem == problem]
    rewards = [compute_r_total(item.rollout.role, item.verdict) for item in attempts]
    mean = sum(rewards) / len(rewards)
    replay = ReplayBuffer([item.rollout for item in attempts], [r - mean for r in rewards])
    expected = torch.autograd.grad(earned(model, attempts), [*model.parameters()])
    expected = torch.cat([part.flatten() for part in expected])
    assert relative(trainer.learner.gradient(replay), expected) < 1e-6
    assert all(weight.grad is None for weight in model.parameters())


def test_the_alignment_is_the_gain_for_the_movement(trained):
    """A step along the movement, there and back, changes what the attempts earn by g · m: finite
    differences, over the length of the gradient that the model itself has. All are paid in one unit, that
    of the largest."""
    trainer, movement, asked, played = trained
    model, units = trainer.policy.model, []
    paid = {item.proposed: item.reward for item in played.proposals if item.proposed}
    rates = compute_solve_rates(asked)
    assert set(rates) == set(paid) and movement.norm() > 0
    for problem in [one for one, rate in rates.items() if 0 < rate < 1][:12]:
        attempts = [item for item in asked if item.rollout.problem == problem]
        gradient = torch.autograd.grad(earned(model, attempts), [*model.parameters()])
        length = torch.cat([part.flatten() for part in gradient]).norm()
        gains = []
        for sign in (1, -1):
            moved, start = copy.deepcopy(model), 0
            for weight in moved.parameters():
                part = movement[start : start + weight.numel()].view_as(weight)
                weight.data += sign * 0.01 * part
                start += weight.numel()
            with torch.no_grad():
                gains.append(earned(moved, attempts).item())
        cosine = (gains[0] - gains[1]) / (0.02 * length * movement.norm())
        if abs(cosine) > 0.03:
            units.append(cosine.item() / paid[problem])
    assert len(units) >= 3 and units == pytest.approx([units[0]] * len(units), rel=2e-3)
    assert max(map(abs, paid.values())) == 1 and 0.05 < units[0] < 1


def test_asking_moves_nothing(warm_tiny):
    """A step that is paid by alignment samples what another samples, and no weight has a gradient."""
    trainers = [
        make_trainer(warm_tiny[0], reward=reward, eval_uniform=False)
        for reward in ("alignment", "learnability")
    ]
    first, second = (trainer.rollout_phase() for trainer in trainers)
    assert first.completions == second.completions
    assert all(weight.grad is None for weight in trainers[0].policy.model.parameters())
    assert type(trainers[1].measure) is SolveRates


@pytest.mark.parametrize("proposer", ["self", "decoy", "uniform"])
def test_only_what_was_proposed_is_measured(warm_tiny, proposer):
    trainer = make_trainer(
        warm_tiny[0], reward="alignment", eval_uniform=False, proposer=proposer, batch_size=32
    )
    asked, measure = [], trainer.measure.of
    trainer.measure.of = lambda attempts, rates: asked.extend(attempts) or measure(attempts, rates)
    played = trainer.step().played
    proposed = {item.proposed for item in played.proposals if item.proposed}
    assert {item.rollout.problem for item in asked} == proposed
    assert (proposer == "uniform") == (not proposed)


def test_half_of_the_problems_in_each_process(monkeypatch):
    """Each measures its share, and all get what all have measured."""
    learner = LinearLearner()
    alignment = Alignment(learner)
    learner.move(1, -1, 0)
    monkeypatch.setattr(measures, "share", lambda problems: problems[:1])
    monkeypatch.setattr(measures, "gather", lambda pairs: [*pairs, (OTHER, -2.0)])
    assert alignment.of(ATTEMPTS, {}) == {ONE: pytest.approx(1 / 2), OTHER: -1}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n_attempts": 1, "eval_uniform": False}, "--reward alignment --n-attempts 1: must"),
        ({}, "--reward alignment --eval-uniform: must have --no-eval-uniform"),
    ],
)
def test_where_it_cannot_work(settings, said):
    with pytest.raises(ArgumentError, match=said):
        AZRArgs(reward="alignment", **settings)


@pytest.mark.slow
def test_a_run_goes_on_exactly(tmp_path):
    """From its checkpoint of step 4, where the weights of step 3 are needed."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    flags = ["--reward", "alignment", "--total-steps", "8", "--keep-checkpoints", "9"]
    done_here(
        *SMALL, *flags, "--checkpoint-every", "4", "--eval-every", "4", "--run-dir", str(whole)
    )
    shutil.copytree(whole, again)
    done_here("--resume", str(again / "checkpoints" / "step_000004"))
    shutil.rmtree(again / "superseded-1")
    assert_equal_runs(again, whole)
