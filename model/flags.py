"""A frozen dataclass as a command line, read by `click`: each field is a flag, its help and what it may
be stand beside it.

    @dataclass(frozen=True)
    class PictureArgs(Flags):
        run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")
        dots_per_inch: int = flag(100, "size of the picture", least=10, most=1000)

    parse(PictureArgs, ["runs/first", "--dots-per-inch", "50"], about="Draws runs.")

gives `PictureArgs(run_dirs=("runs/first",), dots_per_inch=50)`. A wrong value is refused by one sentence
that names the flag, the value and what is allowed, whether a command line or Python gave it.
"""

import sys
import typing
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from unicodedata import category

import click
from click.core import ParameterSource

LIMIT = 10**6  # of every number that has no limit of its own
LONGEST_SHOWN = 100  # characters of a wrong value
CONTROLS = {"Cc", "Zl", "Zp"}  # Unicode's categories of what would end a line, among others
HELP_WIDTH = 100  # columns of a help page, where the terminal has so many


class ArgumentError(ValueError):
    """A value that is not allowed; the message is one sentence for the user."""


# ---------------------------------------------------------------- fields


def flag(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    beside: Sequence[float] = (),
    choices: Sequence[str] | None = None,
    words: Sequence[str] = (),
    bare: str | None = None,
    changeable: bool = False,
    repeatable: bool = False,
) -> Any:
    """A field with what its flag may be: an inclusive range, an open lower end, or a choice. Numbers
    without an end of their own go to `LIMIT`, or from minus that.

    beside: numbers outside the range that are allowed too. words: what may stand in the place of a number until the program has decided it, as `undecided`
    tells. bare: the value of the flag when the command line gives it none. changeable: whether a run may be
    resumed with another value. repeatable: whether it may be given several times; its value is a tuple.
    """
    limits = dict(
        least=least, most=most, above=above, beside=beside, choices=choices, words=tuple(words)
    )
    kind = dict(bare=bare, changeable=changeable, repeatable=repeatable, positional=None)
    return field(default=default, metadata={"help": help, **limits, **kind})


def positional(name: str, help: str) -> Any:
    """A field with the words of a command line that belong to no flag: a tuple of one or more texts.

    name: how help and sentences call one of them, `RUN_DIR`."""
    wanted: Any = flag((), help, repeatable=True)
    return field(default=(), metadata={**wanted.metadata, "positional": name})


@dataclass(frozen=True)
class Flags:
    """What the command lines are made of: each is a frozen dataclass of `flag` fields that inherits
    from this one. Raises ArgumentError for a value that is not allowed."""

    def __post_init__(self):
        for item in fields(self):
            check(item, getattr(self, item.name))

    @property
    def undecided(self) -> list[str]:
        """The names of the fields that hold a word in the place of a number. Whoever uses such a number
        must have decided it before."""
        return [item.name for item in fields(self) if is_word(item, getattr(self, item.name))]


def flag_name(name: str) -> str:
    """The flag of a field: `--total-steps` of `total_steps`, `--from` of `from_`."""
    return "--" + name.rstrip("_").replace("_", "-")


# ---------------------------------------------------------------- what is allowed


def check(item: Field, value: Any) -> None:
    """Raise ArgumentError unless `value` is what the field may be."""
    if value is None and item.default is None:
        return
    if not item.metadata["repeatable"]:
        _check_one(item, value)
        return
    if type(value) is not tuple:
        raise ArgumentError(f"{_name(item)} {shown(value)}: must be a tuple")
    if item.metadata["positional"] and not value:
        raise ArgumentError(f"{_name(item)}: must be given, once or several times")
    for one in value:
        _check_one(item, one)


def is_word(item: Field, value: Any) -> bool:
    """Whether a value is one of the words that may stand in the place of a field's number."""
    return type(value) is str and value in item.metadata["words"]


def _check_one(item: Field, value: Any) -> None:
    if is_word(item, value):
        return
    limits, wanted = item.metadata, _wanted(item)
    ok = type(value) is wanted or (wanted is float and type(value) is int)
    if ok and wanted in (int, float):
        least, most = _range(item)
        ok = least <= value <= most and (limits["above"] is None or value > limits["above"])
        ok = ok or value in limits["beside"]
    if ok and wanted is str:
        ok = is_text(value)
    ok = ok and (limits["choices"] is None or value in limits["choices"])
    if not ok:
        raise _wrong(item, value)


def _wrong(item: Field, value: Any) -> ArgumentError:
    return ArgumentError(f"{_name(item)} {shown(value)}: must be {_allowed(item)}")


def _name(item: Field) -> str:
    """How a sentence calls a field."""
    return item.metadata["positional"] or flag_name(item.name)


def _wanted(item: Field) -> type:
    """int, float, str or bool; of `str | None` and of `tuple[str, ...]`, str."""
    kinds = [kind for kind in typing.get_args(item.type) if kind is not type(None)]
    return kinds[0] if kinds else typing.cast(type, item.type)


def _range(item: Field) -> tuple[float, float]:
    """The least and the most that a number may be; neither is NaN, which is in no range."""
    least, most = item.metadata["least"], item.metadata["most"]
    return -LIMIT if least is None else least, LIMIT if most is None else most


def _allowed(item: Field) -> str:
    """What a field may be, as the end of a sentence."""
    limits = item.metadata
    return " or ".join([_allowed_value(item), *map(str, limits["beside"]), *limits["words"]])


def _allowed_value(item: Field) -> str:
    limits, wanted = item.metadata, _wanted(item)
    if limits["choices"]:
        return " or ".join(limits["choices"])
    if wanted is bool:
        return "true or false"
    if wanted is str:
        return "text in UTF-8 without control characters"
    noun = "an integer" if wanted is int else "a number"
    least, most = _range(item)
    if limits["above"] is not None:
        return f"{noun} above {limits['above']} and at most {most}"
    if limits["most"] is None and limits["least"] is not None:
        return f"{noun} of at least {least} and at most {most}"
    return f"{noun} from {least} to {most}"


def is_text(value: str) -> bool:
    """Whether a text can be written to files and shown: in UTF-8, without control characters."""
    return _is_unicode(value) and not any(category(letter) in CONTROLS for letter in value)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written to a file: Python reads the other bytes of a command line too."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def shown(value: Any) -> str:
    """A value as a sentence names it: printable, and not too long to be read."""
    text = str(value)
    text = text if text.isprintable() and _is_unicode(text) else ascii(text)
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


# ---------------------------------------------------------------- command lines

Command = TypeVar("Command", bound=Flags)


def parse(kind: type[Command], argv: Sequence[str], about: str) -> Command:
    """The flags of a command. Raises ArgumentError, or SystemExit(0) for --help. about: the docstring
    of the command, whose first paragraph the help begins with."""
    return kind(**parse_values(argv, fields(kind), about=about.partition("\n\n")[0]))


def parse_values(
    argv: Sequence[str], chosen: Sequence[Field], *, about: str, epilog: str | None = None
) -> dict[str, Any]:
    """What a command line gives the fields `chosen`, by name, each value checked. Raises
    ArgumentError, or SystemExit(0) for --help. about, epilog: first and last of the help."""
    settings = dict(
        help_option_names=["-h", "--help"], allow_extra_args=True, max_content_width=HELP_WIDTH
    )
    parameters = [_parameter(item) for item in chosen]
    command = click.Command(
        None, params=parameters, help=about, epilog=epilog, context_settings=settings
    )
    try:
        context = command.make_context(Path(sys.argv[0]).name, list(argv))
    except click.exceptions.Exit as ended:  # --help was shown
        raise SystemExit(ended.exit_code) from None
    except click.NoSuchOption as error:
        raise _unknown(_word(argv, error.option_name), error.possibilities) from None
    except click.BadOptionUsage as error:
        raise _misused(error.option_name, argv, parameters) from None
    if context.args:
        raise _unknown(context.args[0])
    given = [
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    return {name: context.params[name] for name in given}


def _parameter(item: Field) -> click.Parameter:
    """A field as click knows it. It has no default there: what is not given stays away."""
    known, is_default_shown = item.metadata, item.default not in (None, "", ())
    text = f"{known['help']} [{item.default}]" if is_default_shown else known["help"]
    if known["positional"]:
        return click.Argument(
            [item.name],
            type=_Value(item),
            nargs=-1,
            required=False,  # `check` says so in our words
            metavar=f"{known['positional']}...",
            help=text,
        )
    if _wanted(item) is bool:
        on = flag_name(item.name)
        switch = f"{on}/--no-{on.removeprefix('--')}"
        return click.Option([item.name, switch], default=None, help=text)
    metavar = "|".join(
        known["choices"] or [item.name.rstrip("_").split("_")[-1].upper(), *known["words"]]
    )
    optional_value = {} if known["bare"] is None else dict(is_flag=False, flag_value=known["bare"])
    return click.Option(
        [item.name, flag_name(item.name)],
        type=_Value(item),
        default=None,
        multiple=known["repeatable"],
        metavar=f"[{metavar}]" if optional_value else metavar,
        help=text,
        **optional_value,
    )


class _Value(click.ParamType):
    """A word of the command line as its field's type, checked. Raises ArgumentError, for another flag
    too, which click would take for the value."""

    name = "value"

    def __init__(self, item: Field):
        self.item = item

    def convert(self, value, param, ctx):
        flags = (one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option))
        if any(value.partition("=")[0] in _spellings(one) for one in flags):
            raise ArgumentError(f"{_name(self.item)}: expected one argument, not the flag {value}")
        if is_word(self.item, value):
            return value
        try:
            converted = _wanted(self.item)(value)
        except ValueError:
            raise _wrong(self.item, value) from None
        _check_one(self.item, converted)
        return converted


def _unknown(word: str, near: Sequence[str] | None = None) -> ArgumentError:
    hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
    return ArgumentError(f"{shown(word)}: is not a flag of this program; {hint}")


def _misused(
    name: str, argv: Sequence[str], parameters: Sequence[click.Parameter]
) -> ArgumentError:
    """Of a flag that was given no value and needs one, or the other way round."""
    options = (one for one in parameters if isinstance(one, click.Option) and not one.is_flag)
    if any(name in _spellings(one) for one in options):
        return ArgumentError(f"{name}: expected one argument")
    return ArgumentError(f"{shown(_word(argv, name))}: must be given without a value")


def _spellings(parameter: click.Parameter) -> list[str]:
    """What turns a flag on, and what turns it off."""
    return [*parameter.opts, *parameter.secondary_opts]


def _word(argv: Sequence[str], name: str) -> str:
    """The word of a command line that gives a flag, with the value after its `=`."""
    return next((word for word in argv if word.split("=")[0] == name), name)
