"""The verifier's patterns read a text once: hostile text costs no more than its length.

Oracle: the theory of regular expressions. One in which the next character alone always says which part
of the pattern it belongs to is never of two minds, so it has nothing to go back to (Brüggemann-Klein,
1993: one-unambiguous). It is decided from the pattern, whatever text may come and however busy the
machine is.
"""

import re
from collections import defaultdict
from re import _compiler, _parser  # how Python itself reads a pattern

import pytest

from utils import string_formatting

CHARACTERS = [*map(chr, range(128)), *"≡٤४４⁴\xa0\u2003\ufffd"]


class Places:
    """The places of a pattern that take a character: which ones, which places may come next, and
    `two_ways` if there is more than one way from somewhere to the next place, or past it."""

    def __init__(self, pattern: str):
        self.taken: list[frozenset[str]] = []
        self.next: dict[int, set[int]] = defaultdict(set)
        self.two_ways = False
        tree = _parser.parse(pattern)
        self._state = tree.state
        self.first, _, _ = self._sequence(tree)

    def ambiguous(self) -> bool:
        """Whether somewhere a character could be taken by two places, or in two ways."""
        return self.two_ways or any(
            self.taken[one] & self.taken[other]
            for choices in (self.first, *self.next.values())
            for one in choices
            for other in choices
            if one < other
        )

    def _sequence(self, items) -> tuple[set[int], set[int], bool]:
        """Where a part may begin, where it may end, and whether it may be empty."""
        first, last, empty = set(), set(), True
        for item in items:
            begins, ends, skipped = self._part(*item)
            self._follow(last, begins)
            first |= begins if empty else set()
            last = last | ends if skipped else ends
            empty = empty and skipped
        return first, last, empty

    def _part(self, kind, value) -> tuple[set[int], set[int], bool]:
        name = str(kind)
        if name == "SUBPATTERN":
            return self._sequence(value[-1])
        if name == "BRANCH":
            parts = [self._sequence(own) for own in value[1]]
            begins, ends = (set().union(*(part[k] for part in parts)) for k in (0, 1))
            skipped = sum(part[2] for part in parts)
            self.two_ways |= skipped > 1
            return begins, ends, skipped > 0
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, repeated = value
            begins, ends, empty = self._sequence(repeated)
            if most > 1:
                self.two_ways |= empty
                self._follow(ends, begins)
            return begins, ends, empty or least == 0
        assert name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"), f"{name} is not understood here"
        alone = _compiler.compile(_parser.SubPattern(self._state, [(kind, value)]))
        self.taken.append(frozenset(filter(alone.fullmatch, CHARACTERS)))
        place = {len(self.taken) - 1}
        return place, place, False

    def _follow(self, before: set[int], after: set[int]) -> None:
        for place in before:
            self.two_ways |= bool(self.next[place] & after)
            self.next[place] |= after


def patterns(values) -> list[re.Pattern]:
    """Those among some values, or in a table among them."""
    found = [value for value in values if isinstance(value, re.Pattern)]
    return found + [
        p for value in values if isinstance(value, dict) for p in patterns([*value.values()])
    ]


def test_the_verifiers_patterns_never_go_back():
    found = patterns([*vars(string_formatting).values()])
    assert len(found) >= 4  # of an answer, and of each task's proposal
    for pattern in found:
        assert not Places(pattern.pattern).ambiguous(), pattern.pattern


@pytest.mark.parametrize(
    "slow",
    [
        r" *[ \t]*x",
        r"(a+)+b",
        r"(a|ab?)*c",
        r"(a?)*b",
        r"[0-9]*1?[0-9]*x",
        r"x?[ ]*(= )?[ ]*y",
        r".*?a",
    ],
)
def test_a_pattern_that_goes_back_would_be_noticed(slow):
    """Negative control: each is of two minds somewhere. On n equal characters and a wrong end most take n²
    steps, and `(a+)+b` takes 2 to the n."""
    assert Places(slow).ambiguous()


@pytest.mark.parametrize("fast", [r" *x *", r"(ab?)+c", r"(a|b)*c", r"-?[0-9]{1,9}", r"[^a]*a"])
def test_a_pattern_that_reads_once_is_let_through(fast):
    assert not Places(fast).ambiguous()
