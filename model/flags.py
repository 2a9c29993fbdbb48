"""A frozen dataclass as a command line: each field is a flag, with what it may be beside its help.

`total_steps` is `--total-steps`. A wrong value is refused by one sentence that names the flag, the
value and what is allowed.
"""

import argparse
import difflib
import re
import typing
from collections.abc import Sequence
from dataclasses import MISSING, Field, field
from unicodedata import category

LIMIT = 10**6  # of every number that has no limit of its own
LONGEST_SHOWN = 100  # characters of a wrong value
CONTROLS = {"Cc", "Zl", "Zp"}  # Unicode's categories of what would end a line, among others


class ArgumentError(ValueError):
    """A value that is not allowed; the message is one sentence for the user."""


def shown(value) -> str:
    """A value as a sentence names it: printable, and not too long to be read."""
    text = str(value)
    text = text if text.isprintable() and _is_unicode(text) else ascii(text)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file: Python reads the other bytes of a command line too."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def flag(
    default,
    help,
    *,
    least=None,
    most=None,
    above=None,
    choices=None,
    bare=None,
    changeable=False,
    repeatable=False,
):
    """A field with what its flag may be: an inclusive range, an open lower end, or a choice. Numbers
    without an end of their own go to `LIMIT`, or from minus that.

    bare: the value of the flag without one. changeable: whether a run may go on with another value.
    repeatable: whether it may be given several times; its value is a tuple.
    """
    limits = dict(least=least, most=most, above=above, choices=choices)
    return field(
        default=default,
        metadata={
            "help": help,
            "bare": bare,
            "changeable": changeable,
            "repeatable": repeatable,
            **limits,
        },
    )


def is_text(value: str) -> bool:
    """Whether a text can be written to files and shown: in UTF-8, without control characters."""
    return _is_unicode(value) and not any(category(one) in CONTROLS for one in value)


def check(item: Field, value) -> None:
    """Raise ArgumentError unless `value` is what the field may be."""
    if value is None and item.default is None:
        return
    for one in value if item.metadata["repeatable"] else (value,):
        _check_one(item, one)


def _check_one(item: Field, value) -> None:
    limits, wanted = item.metadata, _wanted(item)
    ok = type(value) is wanted or (wanted is float and type(value) is int)
    if ok and wanted in (int, float):
        least, most = _range(limits)
        ok = least <= value <= most and (limits["above"] is None or value > limits["above"])
    if ok and wanted is str:
        ok = is_text(value)
    ok = ok and (limits["choices"] is None or value in limits["choices"])
    if not ok:
        raise ArgumentError(f"{_name(item)} {shown(value)}: must be {_allowed(item)}")


def _range(limits) -> tuple[float, float]:
    """The least and the most that a number may be; neither is NaN, which is in no range."""
    ends = ("least", -LIMIT), ("most", LIMIT)
    least, most = (end if limits[name] is None else limits[name] for name, end in ends)
    return least, most


def flag_name(name: str) -> str:
    """The flag of a field: `--total-steps` of `total_steps`."""
    return "--" + name.replace("_", "-")


def _name(item) -> str:
    return flag_name(item.name)


def _wanted(item) -> type:
    """int, float, str or bool; of `str | None` and of `tuple[str, ...]`, str."""
    return next((t for t in typing.get_args(item.type) if t is not type(None)), item.type)


def _allowed(item) -> str:
    limits, wanted = item.metadata, _wanted(item)
    noun = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text in UTF-8 without control characters",
    }[wanted]
    if limits["choices"]:
        return " or ".join(limits["choices"])
    if wanted not in (int, float):
        return noun
    least, most = _range(limits)
    if limits["above"] is not None:
        return f"{noun} above {limits['above']} and at most {most}"
    if limits["most"] is None and limits["least"] is not None:
        return f"{noun} of at least {least} and at most {most}"
    return f"{noun} from {least} to {most}"


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ArgumentError(shown(message.removeprefix("argument ")))


def _convert(item, text):
    """The text of a flag, or its texts, as its field's type."""
    if isinstance(text, list):
        return tuple(_convert(item, one) for one in text)
    try:
        return text if isinstance(text, bool) else _wanted(item)(text)
    except ValueError:
        raise ArgumentError(f"{_name(item)} {shown(text)}: must be {_allowed(item)}") from None


def _build_parser(chosen: Sequence[Field], **texts: str) -> argparse.ArgumentParser:
    parser = _Parser(allow_abbrev=False, argument_default=argparse.SUPPRESS, **texts)
    for item in chosen:
        shown = "" if item.default in (None, MISSING, ()) else f" [{item.default}]"
        text = item.metadata["help"].replace("%", "%%") + shown
        if _wanted(item) is bool:
            parser.add_argument(_name(item), action=argparse.BooleanOptionalAction, help=text)
        else:
            allowed = (
                _allowed(item).upper()
                if item.metadata["choices"]
                else item.name.split("_")[-1].upper()
            )
            bare = item.metadata["bare"]
            one = {} if bare is None else {"nargs": "?", "const": bare}
            if item.metadata["repeatable"]:
                one["action"] = "append"
            parser.add_argument(_name(item), metavar=allowed, help=text, **one)
    return parser


def _join_negatives(argv: Sequence[str]) -> list[str]:
    """`--lr -1e-3` as `--lr=-1e-3`: argparse would take the exponent form for a flag."""
    joined: list[str] = []
    for word in argv:
        if (
            joined
            and joined[-1].startswith("--")
            and "=" not in joined[-1]
            and re.match(r"-\.?[0-9]", word)
        ):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def parse_values(argv: Sequence[str], chosen: Sequence[Field], **texts: str) -> dict:
    """What a command line gives the fields `chosen`, by name. Raises ArgumentError, or SystemExit(0)
    for --help. texts: description and epilog of the help."""
    given, unknown = _build_parser(chosen, **texts).parse_known_args(_join_negatives(argv))
    if unknown:
        near = difflib.get_close_matches(unknown[0].split("=")[0], map(_name, chosen), n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
        raise ArgumentError(f"{shown(unknown[0])}: is not a flag of this program; {hint}")
    by_name = {item.name: item for item in chosen}
    return {name: _convert(by_name[name], text) for name, text in vars(given).items()}
