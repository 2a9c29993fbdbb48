"""Rivals of self-play: what each draws, and what it hears. Oracles: weights by hand, stated
probabilities, the log of a real run."""

import json
import shutil
from collections import Counter
from itertools import product
from math import sqrt

import pytest
from helpers.run_contents import SMALL, assert_equal_runs, done_here
from helpers.trainers import make_trainer

from custom_types import TASKS, Problem, Role, TaskType
from model.args import AZRArgs
from model.proposers.protocol import Proposer
from model.proposers.table import PROPOSERS
from model.run.yoking import proposed_problems
from prime_inversion import all_problems

ABDUCTION, DEDUCTION, INDUCTION = TASKS
DRAWS = 20_000


def proposer(name: str, followed=None, **changes) -> Proposer:
    """With primes 5, 7, 11 and 13, and no policy."""
    return PROPOSERS[name](
        None, AZRArgs(**{"max_prime": 13, "proposer": name, **changes}), followed or {}
    )


def assert_drawn_as_stated(drawn: list, probabilities: dict) -> None:
    """Each share within 5 standard deviations of its probability, and nothing else drawn."""
    counts = Counter(drawn)
    assert sum(probabilities.values()) == pytest.approx(1) and set(counts) <= set(probabilities)
    for what, p in probabilities.items():
        assert counts[what] / len(drawn) == pytest.approx(p, abs=5 * sqrt(p * (1 - p) / len(drawn)))


@pytest.mark.parametrize("name", ["uniform", "log_uniform", "window", "adaptive"])
def test_at_most_b_distinct_problems_of_each_task_are_taught(name):
    """As each draws B with replacement from at most 32 problems, 30 draws repeat some. Nobody proposes."""
    rival = proposer(name, batch_size=30)
    taught = rival.taught(40, [Problem(DEDUCTION, 2, 4, 7)])
    assert rival.author is None and not rival.writes and len(set(taught)) == len(taught)
    counts = Counter(problem.task for problem in taught)
    assert all(10 < counts[task] < 30 for task in TASKS)
    again = proposer(name, batch_size=30)
    assert again.taught(40, []) == taught != again.taught(40, [])


# ---------------------------------------------------------------- log-uniform


@pytest.mark.parametrize("task", TASKS)
def test_log_uniform_draws_a_prime_by_1_over_p_and_then_any_problem(task):
    """1/5 + 1/7 + 1/11 + 1/13 = (1001 + 715 + 455 + 385) / 5005 = 2556 / 5005."""
    primes = {5: 1001 / 2556, 7: 715 / 2556, 11: 455 / 2556, 13: 385 / 2556}
    drawn = proposer("log_uniform", batch_size=DRAWS).draw(1, task)
    assert_drawn_as_stated([problem.p for problem in drawn], primes)
    sizes = {p: p - 1 - (task is INDUCTION) for p in primes}
    each = {one: primes[one.p] / sizes[one.p] for one in all_problems(task, 5, 13)}
    assert_drawn_as_stated(drawn, each)


def test_a_held_out_prime_leaves_the_others_their_shares():
    """11 is one with a share of 0.4: 1/5 + 1/7 + 1/13 = (91 + 65 + 35) / 455."""
    drawn = proposer("log_uniform", batch_size=DRAWS, held_out=0.4).draw(1, DEDUCTION)
    assert_drawn_as_stated([one.p for one in drawn], {5: 91 / 191, 7: 65 / 191, 13: 35 / 191})


# ---------------------------------------------------------------- window


@pytest.mark.parametrize(
    ("step", "primes"),
    [
        (1, {5, 7}),
        (3, {5, 7}),
        (4, {5, 7, 11}),
        (6, {5, 7, 11}),
        (7, {5, 7, 11, 13}),
        (99, {5, 7, 11, 13}),
    ],
)
def test_the_window_by_step(step, primes):
    """Two primes in steps 1 to 3, one more every 3 steps, and every problem of theirs equally often."""
    window = proposer("window", batch_size=DRAWS)
    for task in TASKS:
        inside = [one for one in all_problems(task, 5, 13) if one.p in primes]
        assert_drawn_as_stated(window.draw(step, task), dict.fromkeys(inside, 1 / len(inside)))


def test_the_window_heeds_the_step_alone():
    one, other = proposer("window"), proposer("window")
    one.judged({Problem(DEDUCTION, 2, 4, 7): 1.0})
    valid = all_problems(DEDUCTION, 5, 13)
    assert one.taught(5, valid) == other.taught(5, [])


# ---------------------------------------------------------------- adaptive


def test_adaptive_weights_by_hand():
    """r (1 - r): 3/16 for 1/4; a quarter for what was never attempted; 0.01 for never and always."""
    adaptive = proposer("adaptive")
    never, rarely, half, always, new = all_problems(DEDUCTION, 5, 13)[:5]
    adaptive.judged({never: 0.0, rarely: 0.25, half: 1.0})
    adaptive.judged({half: 0.5, always: 1.0})  # what was heard last counts
    weights = [adaptive.weight(one) for one in (never, rarely, half, always, new)]
    assert weights == [0.01, 3 / 16, 0.25, 0.01, 0.25]


def test_adaptive_draws_by_its_weights():
    """All 28 induction problems were attempted: 8 solved half of the time, 8 in 1 of 8, 12 always."""
    adaptive = proposer("adaptive", batch_size=DRAWS)
    space = all_problems(INDUCTION, 5, 13)
    rates = [0.5] * 8 + [0.125] * 8 + [1.0] * 12
    adaptive.judged(dict(zip(space, rates, strict=True)))
    weights = [0.25] * 8 + [7 / 64] * 8 + [0.01] * 12
    total = 2 + 7 / 8 + 0.12
    each = {one: weight / total for one, weight in zip(space, weights, strict=True)}
    assert_drawn_as_stated(adaptive.draw(1, INDUCTION), each)


def test_adaptive_hears_what_was_solved(warm_tiny):
    """After each step of a real trainer: the rates of that step's attempts, and older ones."""
    trainer, heard = make_trainer(warm_tiny[0], proposer="adaptive", batch_size=16), {}
    for _ in range(3):
        heard |= trainer.step().played.solve_rates
        assert trainer.proposer.rates == heard
    assert len(set(heard.values())) > 2 and len(heard) > 40


def test_a_proposer_of_self_play_hears_what_was_solved_too(warm_tiny):
    trainer, heard = make_trainer(warm_tiny[0], batch_size=32), []
    trainer.proposer.judged = heard.append
    assert heard == [trainer.step().played.solve_rates] and heard[0]


def test_rates_are_part_of_the_state():
    """In JSON's types, and to the bit: a third has no short decimal."""
    adaptive, other = proposer("adaptive"), proposer("adaptive")
    problems = all_problems(INDUCTION, 5, 13)[:9] + all_problems(ABDUCTION, 5, 13)[:9]
    adaptive.judged({problem: number / 18 for number, problem in enumerate(problems)})
    other.load_state_dict(json.loads(json.dumps(adaptive.state_dict())))
    assert other.rates == adaptive.rates and len(other.rates) == 18


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adaptive", "window"])
def test_a_run_goes_on_exactly(tmp_path, name):
    """From its checkpoint of step 4, by the rates that are in it, or by the step."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    flags = [
        "--proposer",
        name,
        "--refill",
        "none",
        "--total-steps",
        "8",
        "--keep-checkpoints",
        "9",
    ]
    done_here(
        *SMALL, *flags, "--checkpoint-every", "4", "--eval-every", "4", "--run-dir", str(whole)
    )
    shutil.copytree(whole, again)
    done_here("--resume", str(again / "checkpoints" / "step_000004"))
    shutil.rmtree(again / "superseded-1")
    assert_equal_runs(again, whole)
    rows = [json.loads(line) for line in (whole / "problems.jsonl").read_text().splitlines()]
    assert len({str(row["deduction"]) for row in rows}) == 8


# ---------------------------------------------------------------- replayed


@pytest.mark.slow
def test_replayed_teaches_the_very_problems(warm_tiny, half):
    """Of each step of a run of 20, as its problems.jsonl has them."""
    settings = dict(proposer="replayed", yoked_to=str(half), total_steps=20)
    followed = proposed_problems(AZRArgs(max_prime=13, **settings))
    trainer = make_trainer(warm_tiny[0], followed=followed, **settings)
    seen = 0
    for line in (half / "problems.jsonl").read_text().splitlines()[:12]:
        row = json.loads(line)
        expected = [Problem(task, x, y, p) for task in TASKS for x, y, p, *_ in row[task]]
        done = trainer.step()
        assert list(done.played.solve_rates) == expected
        assert {item.rollout.role for item in done.learned.scored} == {Role.SOLVER}
        seen += len(expected)
    assert seen > 12


# ---------------------------------------------------------------- no refill


@pytest.mark.parametrize(
    ("name", "train_attempts"),
    list(product(["self", "uniform", "adaptive", "decoy"], [True, False])),
)
def test_without_refill_the_answers_are_those_to_the_steps_problems(
    warm_tiny, name, train_attempts
):
    trainer = make_trainer(
        warm_tiny[0], proposer=name, refill="none", train_attempts=train_attempts, batch_size=32
    )
    done = trainer.step()
    taught = Counter(item.rollout.problem for item in done.played.answers)
    assert set(taught.values()) == {3 if train_attempts else 1}
    assert done.metrics["answer_frac/refill"] == 0 and done.played.taught == taught.total()
    if name == "self":
        assert set(taught) == {item.proposed for item in done.played.proposals if item.proposed}


def test_a_step_without_an_example_changes_no_weight(warm_tiny):
    """A yoked run that follows a step in which nothing was valid."""
    followed = {1: [], 2: [Problem(TaskType.DEDUCTION, 2, 4, 7)]}
    trainer = make_trainer(
        warm_tiny[0], proposer="yoked", yoked_to="a run", refill="none", followed=followed
    )
    before = [weight.clone() for weight in trainer.policy.model.parameters()]
    metrics = trainer.step().metrics
    assert all(
        (a == b).all() for a, b in zip(before, trainer.policy.model.parameters(), strict=True)
    )
    assert metrics["examples"] == metrics["skipped_updates"] == 0
    second = trainer.step().metrics
    assert second["examples"] > 0 and second["loss"] == second["loss"]
