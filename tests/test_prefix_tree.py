"""Rows of shared beginnings. Oracle: the sets of prefixes, written out by comparing sequences."""

from random import Random

import pytest

from buffer.packing import fill_rows, pack, row_length, shared_length


def sequences(count: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Of 1 to 9 tokens of an alphabet of three, so that beginnings repeat."""
    rng = Random(seed)
    return [tuple(rng.choices((5, 6, 7), k=rng.randint(1, 9))) for _ in range(count)]


def test_the_example_of_the_docstring():
    packed = pack([[(7, 8, 9, 2), (7, 8, 4, 2), (7, 5)], [(7,)]], pad_id=0)
    assert packed.input_ids.tolist() == [[7, 8, 9, 2, 4, 2, 5], [7, 0, 0, 0, 0, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 1], [0] * 7]
    assert packed.paths == [[0, 1, 2, 3], [0, 1, 4, 5], [0, 6], [7]]


@pytest.mark.parametrize("ordered", [True, False])
def test_each_token_sees_its_own_sequence_and_nothing_else(ordered):
    """Sorted or not; equal sequences and beginnings of others among them."""
    rows = [sequences(40, seed) for seed in range(3)]
    rows = [sorted(row) for row in rows] if ordered else rows
    packed = pack(rows, pad_id=9)
    time = packed.input_ids.shape[1]
    ids, sees = packed.input_ids.flatten().tolist(), packed.attention_mask[:, 0]
    paths = iter(packed.paths)
    for number, row in enumerate(rows):
        for sequence in row:
            path = next(paths)
            assert [ids[place] for place in path] == list(sequence)
            for depth, place in enumerate(path):
                assert divmod(place, time)[0] == number
                seen = sees[number, place % time].nonzero().flatten() + number * time
                assert seen.tolist() == path[: depth + 1]
                assert packed.position_ids.flatten()[place] == depth
    if ordered:
        prefixes = [{s[:k] for s in row for k in range(1, 1 + len(s))} for row in rows]
        lengths = [len(own) for own in prefixes]
        assert time == max(lengths)  # nothing twice
    padded = packed.input_ids == 9
    assert padded.any() and (sees[padded].sum(-1) == 1).all()


@pytest.mark.parametrize("most", [1, 9, 30, 10_000])
def test_rows_are_filled_to_their_length(most):
    whole = sequences(60)
    rows, row_tokens = fill_rows(whole, most)
    assert row_tokens == (128 if most == 10_000 else max(9, most))
    order = [index for row in rows for index in row]
    assert sorted(order) == list(range(60))
    assert [whole[index] for index in order] == sorted(whole)
    sizes = [pack([[whole[index] for index in row]], 0).input_ids.numel() for row in rows]
    for size, row in zip(sizes, rows, strict=True):
        assert size <= row_tokens or len({whole[index] for index in row}) == 1
    for row, following in zip(rows, rows[1:], strict=False):
        more = [whole[index] for index in [*row, following[0]]]
        assert pack([more], 0).input_ids.numel() > row_tokens


def test_a_row_always_holds_the_longest_sequence():
    assert row_length(10, 0, most=10_000) == 128
    assert row_length(200, 0, most=10_000) == 200
    assert row_length(200, 100, most=10_000) == 700
    assert row_length(200, 100, most=300) == 300
    assert row_length(200, 100, most=7) == 200


def test_all_attempts_at_a_prompt_are_one_row():
    """Six prompts of 80 tokens, of which the first 60 are common, 8 responses of 47 to each."""
    prompts = [(1,) * 60 + (2 + number,) * 20 for number in range(6)]
    whole = [prompt + (10 + k,) * 47 for prompt in prompts for k in range(8)]
    rows, row_tokens = fill_rows(whole, 10_000)
    assert [len(row) for row in rows] == [8] * 6 and row_tokens == round(
        127 + 5 * (42 * 80 + 5 * 60) / 48
    )


def test_shared_length_by_hand():
    assert shared_length((), (1,)) == shared_length((2, 1), (1,)) == 0
    assert shared_length((1, 2, 3), (1, 2)) == shared_length((1, 2), (1, 2, 3)) == 2
