"""A step's rollouts on their way into the update. Oracles: exact counts, the real tokenizer, lengths
by hand."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from test_buffer import DEDUCTION, SPACE, chi_square

from buffer.base_buff import ReplayBuffer, collate, microbatches
from custom_types import CELLS, Example, Problem, Role, Rollout, TaskType
from model.policy.tiny import tiny_tokenizer


def rollout(prompt, response, role=Role.SOLVER, task=DEDUCTION, text="", finished=True) -> Rollout:
    logprobs = tuple(-0.5 - 0.25 * k for k in range(len(response)))
    problem = Problem(task, 2, 4, 7)
    return Rollout(role, task, problem, tuple(prompt), tuple(response), logprobs, text, finished)


def item(prompt_length: int, response_length: int, advantage=0.0, weight=1.0) -> Example:
    row = rollout(range(10, 10 + prompt_length), range(50, 50 + response_length))
    return Example(row, advantage, weight)


def replay_of(examples) -> ReplayBuffer:
    return ReplayBuffer(
        [one.rollout for one in examples],
        [one.advantage for one in examples],
        [one.weight for one in examples],
    )


def test_collate_by_hand():
    # The pad id 0 among the sampled ids is a token like any other. The second response to 7 8
    # follows position 1 as the first does; a row may hold a second prompt.
    proposer = dict(role=Role.PROPOSER, task=TaskType.INDUCTION)
    examples = [
        Example(rollout((7, 8), (9, 2), **proposer), 1.5, 2.0),
        Example(rollout((7, 8), (4,), **proposer), 0.5),
        Example(rollout((7, 8, 6), (3, 0, 2), Role.SOLVER, TaskType.ABDUCTION), -2.0),
        Example(rollout((5,), (1,)), 1.0),
    ]
    batch = collate([examples[:2], examples[2:]], pad_id=0)
    # Behind a response's last token nothing is scored, so it is not read.
    assert batch.input_ids.tolist() == [[7, 8, 9, 0, 0, 0], [7, 8, 6, 3, 0, 5]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 0], [0, 1, 2, 3, 4, 0]]
    assert batch.attention_mask[:, 0].int().tolist() == [
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ],
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ],
    ]
    assert batch.response_mask.int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 0, 0]]
    assert batch.targets.tolist() == [[9, 2, 0], [4, 0, 0], [3, 0, 2], [1, 0, 0]]
    # Where the token before each stands; rows are 6 long.
    assert batch.sources.tolist() == [[1, 2, 0], [1, 0, 0], [8, 9, 10], [11, 0, 0]]
    assert batch.old_logprobs.tolist() == [[-0.5, -0.75, 0], [-0.5, 0, 0], [-0.5, -0.75, -1.0], [-0.5, 0, 0]]  # fmt: skip
    assert batch.advantages.tolist() == [1.5, 0.5, -2.0, 1.0]
    assert batch.weights.tolist() == [2.0, 1.0, 1.0, 1.0]
    assert batch.counts.tolist() == [1.0, 1.0, 1.0, 1.0]
    # 3 * role + task: proposer induction twice, solver abduction, solver deduction
    assert batch.cells.tolist() == [2, 2, 3, 4]
    assert [CELLS[cell] for cell in batch.cells] == [
        (one.rollout.role, one.rollout.task) for one in examples
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
            items.append(Example(row, 0.0))
    batch = collate([[one] for one in items], tokenizer.convert_tokens_to_ids(pad))
    for example, ids, sees, targets, response in zip(
        items, batch.input_ids, batch.attention_mask[:, 0], batch.targets, batch.response_mask,
        strict=True,
    ):  # fmt: skip
        end = "<eos>" if example.rollout.finished else ""
        assert tokenizer.decode(targets[response]) == example.rollout.text + end
        *before, _ = whole = example.rollout.prompt_ids + example.rollout.response_ids
        assert tokenizer.decode(whole) == "5..13 solve " + example.rollout.text + end
        assert ids[sees[len(before) - 1]].tolist() == before


@pytest.mark.parametrize(
    "prompt, response, logprobs", [((), (1,), (0.0,)), ((1,), (), ()), ((1,), (2, 3), (0.0,))]
)
def test_a_row_whose_lengths_do_not_fit_is_refused(prompt, response, logprobs):
    row = Rollout(Role.SOLVER, DEDUCTION, SPACE[0], prompt, response, logprobs, "", True)
    with pytest.raises(ValueError, match=f"{len(prompt)}, {len(response)}, {len(logprobs)}"):
        collate([[item(2, 2)], [Example(row, 0.0)]], pad_id=0)


def test_rows_and_advantages_must_be_as_many():
    with pytest.raises(ValueError):
        ReplayBuffer([item(1, 1).rollout] * 3, [0.0, 1.0])


def test_equal_rows_become_one_that_weighs_as_much():
    """Rows of weights 1, 1 and 4 are one that weighs 6 and stands for three; another response, another
    prompt or another advantage stays apart."""
    one, longer, other = item(2, 2).rollout, item(2, 3).rollout, item(3, 2).rollout
    replay = ReplayBuffer(
        [one, longer, one, other, one, one],
        [0.5, 0.5, 0.5, 0.5, 0.5, -0.5],
        [1.0, 2.0, 1.0, 3.0, 4.0, 5.0],
    )
    assert replay.examples == [
        Example(one, 0.5, 6.0, count=3),
        Example(longer, 0.5, 2.0),
        Example(other, 0.5, 3.0),
        Example(one, -0.5, 5.0),
    ]


@pytest.mark.parametrize("size, n", [(12, 4), (13, 4), (15, 4), (3, 8), (1, 1), (0, 4)])
def test_minibatches_hold_each_item_once_with_its_advantage(size, n):
    items = [item(1 + k, 1 + k, advantage=float(k)) for k in range(size)]
    replay = replay_of(items)
    parts = replay.minibatches(n, Random(0))
    sizes = [len(part) for part in parts]
    assert sum(sizes) == len(replay) == size and len(parts) == min(n, size)
    assert not sizes or (max(sizes) - min(sizes) <= 1 and min(sizes) > 0)
    together = [one for part in parts for one in part]
    assert sorted(one.advantage for one in together) == list(range(size))
    assert all(len(one.rollout.response_ids) == 1 + one.advantage for one in together)
    assert replay.minibatches(n, Random(0)) == parts
    if size > 10:
        assert replay.minibatches(n, Random(1)) != parts


def test_a_prompt_stays_in_one_minibatch_but_where_that_ends():
    rng = Random(0)
    items = [item(1 + g, 1 + k) for g in range(60) for k in range(rng.randint(1, 8))]
    parts = replay_of(items).minibatches(5, Random(1))
    homes = [{one.rollout.prompt_ids for one in part} for part in parts]
    assert sum(len(home) for home in homes) <= 60 + 4
    # One prompt, many responses: still as many parts.
    assert [len(part) for part in replay_of([item(3, 1 + k) for k in range(9)]).minibatches(3, rng)] == [3, 3, 3]  # fmt: skip


def test_minibatches_are_shuffled_evenly():
    replay = replay_of([item(1 + k, 1, advantage=float(k)) for k in range(32)])
    rng = Random(0)
    first = Counter(one.advantage for _ in range(2000) for one in replay.minibatches(4, rng)[0])
    assert (
        chi_square(first, list(map(float, range(32))), 2000, 8) < 61.1
    )  # as above, 31 degrees of freedom


@pytest.mark.parametrize("max_tokens", [1, 7, 20, 60, 10_000])
def test_microbatches_keep_the_budget_and_hold_each_item_once(max_tokens):
    rng = Random(0)
    items = [item(rng.randint(1, 6), rng.randint(1, 6), advantage=float(k)) for k in range(50)]
    longest = max(len(i.rollout.prompt_ids) + len(i.rollout.response_ids) for i in items)
    parts = list(microbatches(items, max_tokens))
    for part in parts:
        positions = collate(part, pad_id=0).input_ids.numel()
        assert positions <= max_tokens or (len(part) == 1 and positions <= longest)
    together = [one for part in parts for row in part for one in row]
    assert sorted(one.advantage for one in together) == list(range(50))
    # Greedy: a part is closed only because the next row would not have fitted.
    for part, following in pairwise(parts):
        assert collate([*part, following[0]], pad_id=0).input_ids.numel() > max_tokens


def test_rows_hold_each_prompt_once_and_little_padding():
    """90 prompts and responses of 1 to 6 and 1 to 4 tokens that begin with 10 or go on with 50: the
    tree of them all but for their last tokens, counted as a set of prefixes."""
    rng = Random(0)
    items = [item(rng.randint(1, 6), rng.randint(1, 4), advantage=float(k)) for k in range(90)]
    (rows,) = microbatches(items, 10_000)
    whole = [one.rollout.prompt_ids + one.rollout.response_ids[:-1] for one in items]
    prefixes = {ids[:length] for ids in whole for length in range(1, 1 + len(ids))}
    batch = collate(rows, pad_id=0)
    assert len(rows) == 1 and batch.input_ids.numel() == len(prefixes)


def test_the_whole_is_counted_in_responses_or_in_their_tokens():
    items = [item(5, 2), item(1, 6), item(9, 1)]
    replay = replay_of(items)
    assert (replay.count("sequence"), replay.count("token")) == (3, 2 + 6 + 1)
    heavy = replay_of([item(5, 2, weight=3.0), item(1, 6, weight=0.5)])
    assert (heavy.count("sequence"), heavy.count("token")) == (3.5, 6 + 3)
    masked = sum(int(collate(part, 0).response_mask.sum()) for part in microbatches(items, 12))
    assert masked == replay.count("token")


def test_responses_to_one_prompt_are_shuffled():
    """Of 6 responses each is first in 1 of 6 draws: chi-square of 5 degrees of freedom exceeds 20.5 once
    in a thousand seeds. And so in each minibatch is a prompt's share of responses, where it is cut."""
    replay, rng = replay_of([item(2, 1 + k, advantage=float(k)) for k in range(6)]), Random(0)
    orders = [
        [one.advantage for part in replay.minibatches(2, rng) for one in part] for _ in range(1200)
    ]
    for place in (0, 3):
        counts = Counter(order[place] for order in orders)
        assert chi_square(counts, list(map(float, range(6))), 1200, 1) < 20.5


def test_collate_keeps_weights_and_counts_apart():
    """An example that stands for four rollouts which together weigh 2, and one for one that weighs 3."""
    row = item(2, 2).rollout
    batch = collate([[Example(row, 1.0, 2.0, count=4)], [Example(row, 1.0, 3.0)]], pad_id=0)
    assert batch.weights.tolist() == [2.0, 3.0] and batch.counts.tolist() == [4.0, 1.0]
