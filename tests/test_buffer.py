"""What a run remembers. Oracles: known distributions, exact counts, the real tokenizer, lengths by hand."""

import json
import random
from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from buffer.base_buff import ProblemBuffer, ReplayBuffer, collate, microbatches, response_count
from custom_types import CELLS, TASKS, Problem, Role, Rollout, Scored, TaskType, Verdict
from model.policy import tiny_tokenizer
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


# ---------------------------------------------------------------- rollouts


def rollout(prompt, response, role=Role.SOLVER, task=DEDUCTION, text="", finished=True) -> Rollout:
    logprobs = tuple(-0.5 - 0.25 * k for k in range(len(response)))
    problem = Problem(task, 2, 4, 7)
    return Rollout(role, task, problem, tuple(prompt), tuple(response), logprobs, text, finished)


def item(prompt_length: int, response_length: int, advantage=0.0, **kwargs):
    row = rollout(range(10, 10 + prompt_length), range(50, 50 + response_length), **kwargs)
    return Scored(row, Verdict.WRONG, -0.5), advantage


def test_collate_by_hand():
    # The pad id 0 among the sampled ids is a token like any other.
    scored = [
        Scored(rollout((7, 8), (9, 2), Role.PROPOSER, TaskType.INDUCTION), Verdict.VALID, 0.5),
        Scored(rollout((7, 8, 6), (3, 0, 2), Role.SOLVER, TaskType.ABDUCTION), Verdict.WRONG, -0.5),
    ]
    batch = collate(list(zip(scored, (1.5, -2.0), strict=True)), pad_id=0)
    assert batch.input_ids.tolist() == [[7, 8, 9, 2, 0, 0], [7, 8, 6, 3, 0, 2]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert batch.old_logprobs.tolist() == [[0, 0, -0.5, -0.75, 0, 0], [0, 0, 0, -0.5, -0.75, -1.0]]
    assert batch.advantages.tolist() == [1.5, -2.0]
    assert batch.cells.tolist() == [2, 3]  # 3 * role + task: proposer induction, solver abduction
    assert [CELLS[cell] for cell in batch.cells] == [
        (s.rollout.role, s.rollout.task) for s in scored
    ]


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", "7"])
def test_the_masked_tokens_are_the_text_and_its_end(pad):
    # Whatever fills the row: its own token, the end token as in many checkpoints, or a real word.
    tokenizer = tiny_tokenizer(13)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    texts = [r"\boxed{4}", r"\boxed{2 * y ≡ 1 (mod 7)}", "", r"\boxed{7}7<pad>7", r"\boxed{<eos>"]
    items = []
    for text, finished in ((text, finished) for text in texts for finished in (True, False)):
        ids = encode(text) + [tokenizer.eos_token_id] * finished
        if ids:
            row = rollout(encode("5..13 solve "), ids, text=text, finished=finished)
            items.append((Scored(row, Verdict.WRONG, -0.5), 0.0))
    batch = collate(items, tokenizer.convert_tokens_to_ids(pad))
    for (scored, _), ids, response, read in zip(
        items, batch.input_ids, batch.response_mask, batch.attention_mask, strict=True
    ):
        end = "<eos>" if scored.rollout.finished else ""
        assert tokenizer.decode(ids[response]) == scored.rollout.text + end
        assert tokenizer.decode(ids[read]) == "5..13 solve " + scored.rollout.text + end


@pytest.mark.parametrize(
    "prompt, response, logprobs", [((), (1,), (0.0,)), ((1,), (), ()), ((1,), (2, 3), (0.0,))]
)
def test_a_row_whose_lengths_do_not_fit_is_refused(prompt, response, logprobs):
    row = Rollout(Role.SOLVER, DEDUCTION, SPACE[0], prompt, response, logprobs, "", True)
    with pytest.raises(ValueError, match=f"{len(prompt)}, {len(response)}, {len(logprobs)}"):
        collate([item(2, 2), (Scored(row, Verdict.WRONG, -0.5), 0.0)], pad_id=0)


def test_rows_and_advantages_must_be_as_many():
    with pytest.raises(ValueError):
        ReplayBuffer([item(1, 1)[0]] * 3, [0.0, 1.0])


@pytest.mark.parametrize("size, n", [(12, 4), (13, 4), (15, 4), (3, 8), (1, 1), (0, 4)])
def test_minibatches_hold_each_item_once_with_its_advantage(size, n):
    items = [item(1, 1 + k, advantage=float(k)) for k in range(size)]
    replay = ReplayBuffer(
        *([list(column) for column in zip(*items, strict=True)] if items else ([], []))
    )
    parts = replay.minibatches(n, Random(0))
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(replay) == size and len(parts) == min(n, size)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) > 0)
    together = [one for part in parts for one in part]
    assert sorted(advantage for _, advantage in together) == list(range(size))
    assert all(len(scored.rollout.response_ids) == 1 + advantage for scored, advantage in together)
    assert replay.minibatches(n, Random(0)) == parts
    if size > 10:
        assert replay.minibatches(n, Random(1)) != parts


def test_minibatches_are_shuffled_evenly():
    replay = ReplayBuffer(
        *map(list, zip(*[item(1, 1, advantage=float(k)) for k in range(32)], strict=True))
    )
    rng = Random(0)
    first = Counter(a for _ in range(2000) for _, a in replay.minibatches(4, rng)[0])
    assert (
        chi_square(first, list(map(float, range(32))), 2000, 8) < 61.1
    )  # as above, 31 degrees of freedom


@pytest.mark.parametrize("max_tokens", [1, 7, 20, 60, 10_000])
def test_microbatches_keep_the_budget_and_hold_each_item_once(max_tokens):
    rng = Random(0)
    items = [item(rng.randint(1, 6), rng.randint(1, 6), advantage=float(k)) for k in range(50)]
    parts = list(microbatches(items, max_tokens))
    for part in parts:
        positions = collate(part, pad_id=0).input_ids.numel()
        assert positions <= max_tokens or len(part) == 1
    assert sorted(a for part in parts for _, a in part) == list(range(50))
    # Greedy: a part is closed only because the next row would not have fitted.
    for part, following in pairwise(parts):
        assert collate([*part, following[0]], pad_id=0).input_ids.numel() > max_tokens


def test_the_whole_is_counted_in_responses_or_in_their_tokens():
    items = [item(5, 2), item(1, 6), item(9, 1)]
    assert (response_count(items, "sequence"), response_count(items, "token")) == (3, 2 + 6 + 1)
    masked = sum(int(collate(part, 0).response_mask.sum()) for part in microbatches(items, 12))
    assert masked == response_count(items, "token")


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
