"""Token sequences as prefix trees: what several of them begin with is stored, and computed, once.

A row of a model's input holds one tree, depth first, so that the descendants of a token stand right
behind it. A token's position is its depth, and it sees itself and its ancestors: what it would see
if its sequence stood alone. Example: 7 8 9 2, 7 8 4 2 and 7 5 become the row `7 8 9 2 4 2 5` at
positions `0 1 2 3 2 3 1`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

# Longer rows share more, and attend in vain more: measured on tiny and on a model of 135 million.
LEAST_ROW = 128
SHARED_LENGTHS = 5


@dataclass(frozen=True)
class PackedRows:
    """input_ids, position_ids (rows, time) int64; attention_mask (rows, 1, time, time) bool, entry
    [r, 0, i, j] true where position i sees position j; paths: of each sequence, in the order given,
    where its tokens stand, as row * time + position."""

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    paths: list[list[int]]


def pack(rows: Sequence[Sequence[Sequence[int]]], pad_id: int) -> PackedRows:
    """Each row's sequences as one tree, padded on the right to the longest row.

    A sequence shares what it has in common with the one before it, so sorted ones share all they can.
    """
    trees = [_Tree(row) for row in rows]
    time = max(len(tree.ids) for tree in trees)
    padding = [time - len(tree.ids) for tree in trees]
    ids = [tree.ids + [pad_id] * pad for tree, pad in zip(trees, padding, strict=True)]
    depths = [tree.depths + [0] * pad for tree, pad in zip(trees, padding, strict=True)]
    # A padded position sees itself, since a row of attention without any is not a number.
    ends = [tree.ends + list(range(len(tree.ids) + 1, time + 1)) for tree in trees]
    index = torch.arange(time, dtype=torch.int32)
    end = torch.tensor(ends, dtype=torch.int32)
    return PackedRows(
        input_ids=torch.tensor(ids),
        position_ids=torch.tensor(depths),
        attention_mask=((index[:, None] >= index) & (index[:, None] < end[:, None]))[:, None],
        paths=[
            [number * time + place for place in path]
            for number, tree in enumerate(trees)
            for path in tree.paths
        ],
    )


class _Tree:
    """ids, depths and ends of the tokens, depth first; the descendants of token i are i + 1 to
    ends[i] - 1. paths: the places of each sequence's tokens."""

    def __init__(self, sequences: Sequence[Sequence[int]]):
        self.ids: list[int] = []
        self.depths: list[int] = []
        self.ends: list[int] = []
        self.paths: list[list[int]] = []
        previous: Sequence[int] = ()
        path: list[int] = []
        for sequence in sequences:
            common = shared_length(previous, sequence)
            self._close(path[common:])
            first = len(self.ids)
            self.ids += sequence[common:]
            self.depths += range(common, len(sequence))
            self.ends += [0] * (len(sequence) - common)
            path = path[:common] + list(range(first, len(self.ids)))
            self.paths.append(path)
            previous = sequence
        self._close(path)

    def _close(self, places: Sequence[int]) -> None:
        for place in places:
            self.ends[place] = len(self.ids)


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their start."""
    for length, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return length
    return min(len(a), len(b))


def row_length(longest: int, shared: float, most: int) -> int:
    """How many positions a row should have at most, given the length of the longest sequence and how
    many tokens a sequence shares with the next on average. Never more than `most`, or than the longest
    sequence where that is longer.

    With k sequences of s shared tokens and r that only they have, a row has s + k r positions. Each
    costs a model of hidden size h about 6 h + s + k r (its layers and its attention); a sequence has
    s / k + r of them: least at k r = sqrt(s (6 h + s)). That is 3 to 10 times s for the models and prompts here.
    """
    return max(longest, min(most, max(LEAST_ROW, round(longest + SHARED_LENGTHS * shared))))


def fill_rows(sequences: Sequence[tuple[int, ...]], most: int) -> tuple[list[list[int]], int]:
    """The sequences' indices, sorted by their tokens, in rows whose trees have at most as many
    positions as `row_length` says, given `most`, and that number."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    ordered = [sequences[index] for index in order]
    shared = [shared_length(*pair) for pair in pairwise([(), *ordered])]
    row_tokens = row_length(max(map(len, sequences)), fmean(shared), most)
    rows: list[list[int]] = []
    length = 0
    for index, sequence, common in zip(order, ordered, shared, strict=True):
        added = len(sequence) - common
        if not rows or length + added > row_tokens:
            rows.append([])
            length, added = 0, len(sequence)
        rows[-1].append(index)
        length += added
    return rows, row_tokens
