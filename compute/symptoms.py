"""Signs that a run has gone wrong: its rows of metrics go in, in their order; warnings come out.

    watch = Watch(batch_size=128)
    for row in rows:
        warnings = watch.add(row)  # {"warning/one_problem_induction": 1, ...}, a 0 or a 1 for each sign

A warning is 1 from the tenth step in a row in which its sign was seen, and 0 again at the first step in
which it was not. Rows may come from a running trainer or from metrics.jsonl, where NaN is null: nothing to
measure is no sign. A row that is missing ends what was seen before it.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from custom_types import CELLS, ROLES, TASKS, Role

STEPS = 10  # in a row, until a sign is a warning
LEAST_ENTROPY = 0.05  # nats a token; with less, a policy has stopped trying anything else
SOLVED = 0.9  # accuracy from which a policy may be sure and its problems easy
PREFIX = "warning/"


@dataclass(frozen=True)
class Seen:
    """What a sign is looked for in: a row of metrics, B, and the accuracy of the last evaluation."""

    row: Mapping[str, float | None]
    batch_size: int
    accuracy: float | None

    def value(self, key: str) -> float | None:
        """None where there was nothing to measure."""
        return _known(self.row.get(key))

    @property
    def unsolved(self) -> bool:
        """Whether there is still much to learn."""
        return self.accuracy is not None and self.accuracy < SOLVED


@dataclass(frozen=True)
class Symptom:
    """A sign that a run has gone wrong. said: what was seen, as a sentence. advice: what may help, by
    flags."""

    holds: Callable[[Seen], bool]
    said: str
    advice: str


def _all_malformed(cell: str) -> Callable[[Seen], bool]:
    return lambda seen: seen.value(f"malformed_frac/{cell}") == 1


def _never_solved(task: str) -> Callable[[Seen], bool]:
    """The mean of solve rates is 0 where each of them is."""
    return lambda seen: seen.value(f"solve_rate/{task}") == 0


def _one_problem(task: str) -> Callable[[Seen], bool]:
    """One problem, proposed more than once. Both shares are of B."""

    def holds(seen: Seen) -> bool:
        distinct, valid = seen.value(f"distinct_frac/{task}"), seen.value(f"valid_frac/{task}")
        if distinct is None or valid is None:
            return False
        return round(distinct * seen.batch_size) == 1 < round(valid * seen.batch_size)

    return holds


def _low_entropy(role: str) -> Callable[[Seen], bool]:
    """A solver that knows all answers is sure of them, and rightly."""

    def holds(seen: Seen) -> bool:
        entropy = seen.value(f"entropy/{role}")
        return entropy is not None and entropy < LEAST_ENTROPY and seen.unsolved

    return holds


def _no_learnability(seen: Seen) -> bool:
    """In no task. That no proposal is well formed is another sign; where some are and none is legal, it
    is this one."""
    shares = [seen.value(f"learnable_frac/{task}") for task in TASKS]
    malformed = [seen.value(f"malformed_frac/{Role.PROPOSER}_{task}") for task in TASKS]
    measured = any(share is not None for share in shares)
    proposed = any(share is not None and share < 1 for share in malformed)
    is_known = all(f"learnable_frac/{task}" in seen.row for task in TASKS)
    return seen.unsolved and is_known and not any(shares) and (measured or proposed)


def _symptoms() -> dict[str, Symptom]:
    """Every sign, by the key of its warning."""
    found = {}
    for role, task in CELLS:
        what, tokens, further = "answer", "--max-answer-tokens", "a lower --entropy-coef"
        if role is Role.PROPOSER:
            what, tokens, further = (
                "proposal",
                "--max-proposal-tokens",
                "an --invalid-reward above -1",
            )
        found[f"malformed_{role}_{task}"] = Symptom(
            _all_malformed(f"{role}_{task}"),
            f"every {what} of {task} was malformed",
            f"a lower --lr, {further}, more {tokens} if cut off",
        )
    for task in TASKS:
        found[f"never_solved_{task}"] = Symptom(
            _never_solved(task),
            f"no valid proposal of {task} was ever solved",
            "a smaller --max-prime (or auto), more --n-attempts, a lower --extreme-reward",
        )
        found[f"one_problem_{task}"] = Symptom(
            _one_problem(task),
            f"all valid proposals of {task} were the same problem",
            "a higher --crowding-cost, a higher --entropy-coef, a lower --lr",
        )
    for role in ROLES:
        found[f"low_entropy_{role}"] = Symptom(
            _low_entropy(role),
            f"the {role}'s entropy was below {LEAST_ENTROPY} nats a token, and accuracy below {SOLVED}",
            "a higher --entropy-coef, a higher --temperature, a lower --lr",
        )
    found["no_learnability"] = Symptom(
        _no_learnability,
        f"every proposal's learnability was 0, and accuracy below {SOLVED}",
        "more --n-attempts, another --max-prime (or auto), a lower --invalid-reward if none is legal",
    )
    return {PREFIX + name: symptom for name, symptom in found.items()}


SYMPTOMS = _symptoms()


class Watch:
    """Follows a run. batch_size: B, proposals of each task in a step."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.accuracy: float | None = None  # of the last evaluation
        self.step: float | None = None  # of the last row
        self.in_a_row = dict.fromkeys(SYMPTOMS, 0)  # steps, up to the last row

    def add(self, row: Mapping[str, float | None]) -> dict[str, int]:
        """The next row of metrics. Returns each warning, 1 where it holds after that step."""
        self.accuracy = _known(row.get("eval/accuracy", self.accuracy))
        seen = Seen(row, self.batch_size, self.accuracy)
        follows = self.step is not None and row["step"] == self.step + 1
        self.step = row["step"]
        for key, symptom in SYMPTOMS.items():
            before = self.in_a_row[key] if follows else 0
            self.in_a_row[key] = before + 1 if symptom.holds(seen) else 0
        return {key: int(count >= STEPS) for key, count in self.in_a_row.items()}

    @property
    def begun(self) -> list[str]:
        """The keys of the warnings that began with the last row."""
        return [key for key, count in self.in_a_row.items() if count == STEPS]


def warned_steps(
    rows: Iterable[Mapping[str, float | None]], batch_size: int
) -> dict[str, list[tuple[int, int]]]:
    """First and last step of each stretch in which a warning held, by its key; no key that never did."""
    watch = Watch(batch_size)
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        step = int(row["step"] or 0)
        for key, warned in watch.add(row).items():
            if warned and watch.in_a_row[key] > STEPS:
                found[key][-1] = (found[key][-1][0], step)
            elif warned:
                found[key].append((step, step))
    return dict(found)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
