"""Checks what is read of a run: text goes in; rows and arguments come out, or RunDirectoryError with a
sentence on what is wrong with the file. An editor may have changed it, or a copy may be cut off.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from custom_types import TASKS
from model.args import ArgumentError, AZRArgs
from model.flags import is_word
from model.run.layout import EVALUATIONS, PROBLEMS
from prime_inversion import primes_between

MEASURED = ("step_time", "time/", "perf/", "eval/accuracy", "skipped_updates")  # never null
ITEMS = {PROBLEMS: 5, EVALUATIONS: 4}  # numbers in an item: [x, y, p, ...]


class RunDirectoryError(Exception):
    """A run directory that cannot be used; the message is one sentence for the user."""


class Row(dict[str, Any]):
    """A JSON object of the file and line `where`. A key that is missing raises RunDirectoryError, which
    names that file, and not KeyError."""

    def __init__(self, values: Mapping, where: str):
        super().__init__(values)
        self.where = where

    def __missing__(self, key: str):
        raise RunDirectoryError(f"{self.where}: has no {key}")


def parse(text: str, where: str) -> Row:
    """The JSON object that the file and line `where` holds. Raises RunDirectoryError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{where}: must be JSON, and is damaged ({error})") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{where}: must be a JSON object")
    return Row(value, where)


def parse_log(text: str, where: str) -> list[Row]:
    """The rows of a log, each of which has its step. A last line without its end is no row yet. Raises
    RunDirectoryError."""
    lines = text.split("\n")[:-1]
    rows = [parse(line, f"{where}, line {number}") for number, line in enumerate(lines, 1)]
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
    """The arguments that a run saved, and the defaults of those that its version did not have. Raises
    RunDirectoryError for a value that is not allowed."""
    known = {item.name for item in fields(AZRArgs)} & set(saved)
    try:
        args = AZRArgs(**{name: saved[name] for name in known})
    except ArgumentError as error:
        raise RunDirectoryError(f"{where}: {error}") from error
    return Row({**args.as_dict(), **saved}, where)


def decided_arguments(saved: Mapping, where: str) -> Row:
    """`arguments` of a run that has decided them all. Raises RunDirectoryError too for one that had not
    got that far."""
    args = arguments(saved, where)
    for item in fields(AZRArgs):
        if is_word(item, args[item.name]):
            raise RunDirectoryError(
                f"{where}: has {item.name} {args[item.name]}, which the run had not yet decided"
            )
    return args


def current_args(args: Row) -> AZRArgs:
    """Arguments as this version runs with them. Raises RunDirectoryError for one that this version does
    not have."""
    unknown = sorted(set(args) - {item.name for item in fields(AZRArgs)})
    if unknown:
        raise RunDirectoryError(
            f"{args.where}: has {', '.join(unknown)}, which this version does not know"
        )
    return AZRArgs(**args)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
