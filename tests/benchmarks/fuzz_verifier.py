"""Judges very many hostile texts and checks each verdict against the rules that the prompts state.

    python tests/benchmarks/fuzz_verifier.py --texts 1000000

Every text is judged in both roles and all tasks. Prints how many there were of each verdict, and the
most time any took per kilobyte; exits 1 for an exception, a verdict the rules would not give, or more
than a millisecond per kilobyte.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from helpers.hostile_text import hostile_text, judged

from model.flags import ArgumentError, Flags, flag, parse

MOST = 1.0  # milliseconds a kilobyte, of all six verdicts; what is shorter counts as a kilobyte


@dataclass(frozen=True)
class FuzzArgs(Flags):
    """The command line."""

    texts: int = flag(1_000_000, "how many texts are judged", least=1, most=10**9)
    seed: int = flag(0, "seed of the texts", least=0)


def milliseconds_a_kilobyte(text: str) -> float:
    """The least of three measurements: the others were disturbed."""
    seconds = min(judged(text)[2] for _ in range(3))
    return 1e3 * seconds / max(1.0, len(text) / 1024)


def main(argv: list[str]) -> int:
    try:
        given = parse(FuzzArgs, argv, about=__doc__.splitlines()[0])
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    rng, verdicts, bad, worst, characters = Random(given.seed), Counter(), 0, 0.0, 0
    for number in range(given.texts):
        text = hostile_text(rng)
        characters += len(text)
        try:
            wrong, found, seconds = judged(text)
        except Exception as error:
            wrong, found, seconds = [f"{type(error).__name__}: {error}"], [], 0.0
        verdicts.update(found)
        spent = 1e3 * seconds / max(1.0, len(text) / 1024)
        if spent > worst:
            worst = max(worst, milliseconds_a_kilobyte(text))
        for reason in wrong:
            bad += 1
            print(f"text {number}, {text[:200]!r}: {reason}", flush=True)
    counts = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.most_common())
    print(
        f"{given.texts:,} texts of {characters:,} characters: {counts}; {bad} wrong verdicts or "
        f"exceptions; at most {worst:.2f} ms a kilobyte"
    )
    return 1 if bad or worst > MOST else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
