"""The problems a run remembers. Oracles: known distributions and exact counts."""

import json
import random
from collections import Counter
from random import Random

import pytest

from buffer.base_buff import ProblemBuffer
from custom_types import TASKS, Problem, TaskType
from prime_inversion import all_problems

DEDUCTION = TaskType.DEDUCTION
SPACE = all_problems(DEDUCTION, 5, 13)  # 32 problems
EVERYTHING = [problem for task in TASKS for problem in all_problems(task, 5, 13)]


def full_buffer(seed=0) -> ProblemBuffer:
    buffer = ProblemBuffer(seed)
    for problem in EVERYTHING:
        buffer.add(problem)
    return buffer


# ---------------------------------------------------------------- problems


def test_a_problem_is_kept_once():
    buffer = ProblemBuffer(0)
    two_four, four_two = Problem(DEDUCTION, 2, 4, 7), Problem(DEDUCTION, 4, 2, 7)
    assert two_four not in buffer
    assert (
        buffer.add(two_four)
        and buffer.add(four_two)
        and not buffer.add(Problem(DEDUCTION, 2, 4, 7))
    )
    assert buffer.problems(DEDUCTION) == (two_four, four_two) and len(buffer) == 2
    # The same numbers are another problem in another task.
    other = Problem(TaskType.ABDUCTION, 2, 4, 7)
    assert other not in buffer and buffer.add(other)
    assert buffer.problems(TaskType.ABDUCTION) == (other,) and len(buffer) == 3


def test_the_seed_problems_are_a_draw_without_replacement_of_each_task():
    def seeded(seed, n=8):
        buffer = ProblemBuffer(seed)
        buffer.seed(EVERYTHING, n)
        return [set(buffer.problems(task)) for task in TASKS]

    for task, own in zip(TASKS, seeded(0), strict=True):
        assert len(own) == 8 and own < set(all_problems(task, 5, 13))
    assert seeded(0) == seeded(0) != seeded(1)
    assert [len(own) for own in seeded(0, n=30)] == [
        30,
        30,
        28,
    ]  # all there are, where there are fewer
    drawn = Counter(problem for seed in range(400) for problem in seeded(seed)[1])
    assert chi_square(drawn, SPACE, draws=400, size=8) < 61.1


def chi_square(counts: Counter, population: list, draws: int, size: int) -> float:
    """Of `draws` uniform samples without replacement of `size` out of N: each count has mean draws * f
    and variance draws * f * (1 - f), f = size / N; scaled so that it has N - 1 degrees of freedom."""
    n = len(population)
    fraction = size / n
    squares = sum((counts[item] - draws * fraction) ** 2 for item in population)
    return squares / (draws * fraction * (1 - fraction)) * (n - 1) / n


def test_sampling_is_uniform_without_replacement():
    buffer = full_buffer()
    samples = [buffer.sample(DEDUCTION, 8) for _ in range(2000)]
    assert all(len(set(sample)) == 8 for sample in samples)
    # 31 degrees of freedom: chi-square exceeds 61.1 once in a thousand seeds.
    assert chi_square(Counter(p for s in samples for p in s), SPACE, 2000, 8) < 61.1
    assert (
        chi_square(Counter(sample[0] for sample in samples), SPACE, 2000, 1) < 61.1
    )  # nor by position
    # Negative control: weights that rise from 1 for the oldest to 2 for the newest are found out.
    rng, recent = Random(0), Counter()
    for _ in range(2000):
        keys = {problem: rng.random() ** (1 / (1 + age / 31)) for age, problem in enumerate(SPACE)}
        recent.update(sorted(SPACE, key=keys.get)[-8:])
    assert chi_square(recent, SPACE, 2000, 8) > 61.1


def test_sampling_more_than_there_are_goes_in_rounds():
    buffer = full_buffer()
    for _ in range(20):
        drawn = buffer.sample(DEDUCTION, 75)  # 32 + 32 + 11
        assert set(drawn[:32]) == set(drawn[32:64]) == set(SPACE) and len(set(drawn[64:])) == 11
        assert drawn[:32] != drawn[32:64]  # each round is shuffled anew
    third = Counter(problem for _ in range(1000) for problem in buffer.sample(DEDUCTION, 75)[64:])
    assert chi_square(third, SPACE, 1000, 11) < 61.1


def test_sampling_leaves_the_buffer_and_other_generators_alone():
    buffer, outside = full_buffer(), random.getstate()
    before = buffer.problems(DEDUCTION)
    buffer.sample(DEDUCTION, 40).clear()
    assert buffer.problems(DEDUCTION) == before and random.getstate() == outside
    assert full_buffer(0).sample(DEDUCTION, 9) == full_buffer(0).sample(DEDUCTION, 9)
    assert full_buffer(0).sample(DEDUCTION, 9) != full_buffer(1).sample(DEDUCTION, 9)


def test_an_empty_task_gives_nothing_and_refuses_something():
    buffer = ProblemBuffer(0)
    assert buffer.sample(DEDUCTION, 0) == []
    with pytest.raises(ValueError, match="deduction"):
        buffer.sample(DEDUCTION, 1)


def test_a_buffer_restored_from_json_goes_on_identically():
    buffer = ProblemBuffer(0)
    buffer.seed(EVERYTHING, 20)
    buffer.sample(DEDUCTION, 13)  # somewhere in the middle of its stream
    state = json.loads(json.dumps(buffer.state_dict()))
    restored = ProblemBuffer(99)
    restored.seed(EVERYTHING, 3)
    restored.load_state_dict(state)
    for task in TASKS:
        assert restored.problems(task) == buffer.problems(task)  # order too: draws depend on it
    for task in TASKS * 3:
        assert restored.sample(task, 7) == buffer.sample(task, 7)
    assert restored.add(buffer.problems(DEDUCTION)[0]) is False


# ---------------------------------------------------------------- shared triples


def test_a_triple_becomes_a_problem_of_each_task():
    buffer = ProblemBuffer(0)
    buffer.add_triple(Problem(DEDUCTION, 2, 4, 7))
    assert [buffer.problems(task) for task in TASKS] == [(Problem(t, 2, 4, 7),) for t in TASKS]
    buffer.add_triple(Problem(DEDUCTION, 1, 1, 7))  # which is no induction problem
    assert [len(buffer.problems(task)) for task in TASKS] == [2, 2, 1]


# ---------------------------------------------------------------- what is unsolved


def test_the_running_solve_rate_weighs_the_draw():
    """One problem answered right ten times running: its rate is 1 - 0.9^10 = 0.6513, so its weight is
    0.3687 beside 1.02 for one never solved. 30,000 draws, bound 5 standard deviations."""
    buffer = ProblemBuffer(0)
    known, unknown = Problem(DEDUCTION, 2, 4, 7), Problem(DEDUCTION, 3, 5, 7)
    for problem in (known, unknown):
        buffer.add(problem)
    for _ in range(10):
        buffer.record(known, True)
        buffer.record(unknown, False)
    chance = 0.3687 / (0.3687 + 1.02)
    drawn = buffer.sample_unsolved(DEDUCTION, 30_000).count(known)
    assert abs(drawn - 30_000 * chance) < 5 * (30_000 * chance * (1 - chance)) ** 0.5


def test_a_forgotten_problem_comes_back():
    buffer = ProblemBuffer(0)
    for problem in (Problem(DEDUCTION, 2, 4, 7), Problem(DEDUCTION, 3, 5, 7)):
        buffer.add(problem)
        for correct in [True] * 60 + [False] * 60 * (problem.x == 3):
            buffer.record(problem, correct)
    # Rates near 1 and near 0: the solved one keeps a weight of 0.02 beside 1.02.
    drawn = Counter(problem.x for problem in buffer.sample_unsolved(DEDUCTION, 5_000))
    assert drawn[3] > 4_800 and drawn[2] > 30


def test_drawing_the_unsolved_from_nothing():
    assert ProblemBuffer(0).sample_unsolved(DEDUCTION, 0) == []
    with pytest.raises(ValueError, match="deduction"):
        ProblemBuffer(0).sample_unsolved(DEDUCTION, 1)


def test_what_is_known_of_answers_survives_json():
    """A right answer, a wrong one and a right one: the rate goes 0.1, 0.09, 0.181."""
    buffer, restored = ProblemBuffer(0), ProblemBuffer(1)
    for problem in (Problem(DEDUCTION, 2, 4, 7), Problem(DEDUCTION, 3, 5, 7)):
        buffer.add(problem)
    for correct in (True, False, True):
        buffer.record(Problem(DEDUCTION, 3, 5, 7), correct)
    restored.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    for one in (buffer, restored):
        first, (*known, rate, count) = one.state_dict()["problems"]
        assert first == ["deduction", 2, 4, 7, 0.0, 0] and known == ["deduction", 3, 5, 7]
        assert rate == pytest.approx(0.181) and count == 3
