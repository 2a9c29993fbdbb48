"""What is read of a run is checked: text goes in, rows and arguments come out, or a sentence on what is
wrong with the file. An editor, a copy that was cut short or another program may have been at it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields

from custom_types import TASKS
from model.args import ArgumentError, AZRArgs
from prime_inversion import primes_between

MEASURED = ("step_time", "time/", "perf/", "eval/accuracy", "skipped_updates")  # never null
ITEMS = {"problems.jsonl": 5, "evaluations.jsonl": 4}  # numbers in an item: [x, y, p, ...]


class RunDirectoryError(Exception):
    """A run directory that cannot be used; the message is one sentence for the user."""


class Row(dict):
    """A JSON object of a file. What it lacks is missing there: RunDirectoryError, not KeyError."""

    def __init__(self, values: Mapping, where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, key):
        raise RunDirectoryError(f"{self.where}: has no {key}")


def parse(text: str, where: str) -> Row:
    """A JSON object, of the file and line `where`. Raises RunDirectoryError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{where}: must be JSON, and is damaged ({error})") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{where}: must be a JSON object")
    return Row(value, where)


def parse_log(text: str, where: str) -> list[Row]:
    """The rows of a log, each with the step it is of; a last line without its end is no row yet. Raises
    RunDirectoryError."""
    whole = text.rpartition("\n")[0]
    lines = enumerate(whole.split("\n"), 1) if whole else ()
    rows = [parse(line, f"{where}, line {number}") for number, line in lines]
    for row in rows:
        if type(row["step"]) is not int or row["step"] < 0:
            raise RunDirectoryError(f"{row.where}: step must be a number of steps")
    return rows


def check_metrics(rows: Iterable[Row]) -> None:
    """Raise RunDirectoryError unless every value is a number, or null where there may be nothing to
    measure."""
    for row in rows:
        for key, value in row.items():
            if key.startswith(MEASURED) and not _is_number(value):
                raise RunDirectoryError(f"{row.where}: {key} must be a number")
            if value is not None and not _is_number(value):
                raise RunDirectoryError(f"{row.where}: {key} must be a number or null")


def check_problems(rows: Iterable[Row], name: str, args: Mapping) -> None:
    """Raise RunDirectoryError unless each item is a problem of the primes that `args` have, with the
    numbers that the log `name` has of one: the last is a share, 0 to 1."""
    primes = set(primes_between(args["min_prime"], args["max_prime"]))
    for row in rows:
        for task in map(str, TASKS):
            if not isinstance(row[task], list):
                raise RunDirectoryError(f"{row.where}: {task} must be a list of problems")
            for item in row[task]:
                if not (
                    isinstance(item, list)
                    and len(item) == ITEMS[name]
                    and all(map(_is_number, item))
                    and all(type(number) is int and number >= 0 for number in item[:-1])
                    and item[2] in primes
                    and 0 < item[0] < item[2]
                    and 0 <= item[-1] <= 1
                ):
                    raise RunDirectoryError(
                        f"{row.where}: {task} must hold problems of primes {args['min_prime']} to "
                        f"{args['max_prime']}, as config.json says, and holds {str(item)[:60]}"
                    )


def arguments(saved: Mapping, where: str) -> Row:
    """The arguments of a run, those that a run of an older version does not know with their defaults.
    Raises RunDirectoryError for one that no run can have."""
    known = {item.name for item in fields(AZRArgs)} & set(saved)
    try:
        args = AZRArgs(**{name: saved[name] for name in known})
    except ArgumentError as error:
        raise RunDirectoryError(f"{where}: {error}") from error
    return Row({**args.as_dict(), **saved}, where)


def _is_number(value) -> bool:
    return type(value) in (int, float)
