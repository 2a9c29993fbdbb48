"""Values that no run could use. Oracles: the promise of one printable sentence with what is allowed, and
a value at the end of a range beside the one behind it."""

import math
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest

from constants import ROOT
from model import train
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval import baselines
from model.eval.baselines import BaselineArgs
from model.flags import LIMIT, Flags, check, flag, flag_name, parse, positional, shown

NUMBERS = [
    (kind, item)
    for kind in (AZRArgs, BaselineArgs)
    for item in fields(kind)
    if any(word in str(item.type) for word in ("int", "float"))
]
TEXTS = [item for item in fields(AZRArgs) if "str" in str(item.type)]


@pytest.mark.parametrize("kind, item", NUMBERS, ids=lambda one: getattr(one, "name", ""))
@pytest.mark.parametrize("value", [10**7, 1e300, 10**400, -(10**400), -1e300, math.inf, math.nan])
def test_every_number_has_an_end(kind, item, value):
    value = int(value) if "int" in str(item.type) and math.isfinite(float_of(value)) else value
    if item.name in ("seed", "max_grad_norm") and value == 10**7:
        return  # which may be so large
    with pytest.raises(ArgumentError) as caught:
        kind(**{item.name: value})
    said = str(caught.value)
    assert said.startswith(f"{flag_name(item.name)} ") and ": must be a" in said
    assert len(said) < 300 and said.isprintable()
    assert "to" in said or "at most" in said


def float_of(value) -> float:
    try:
        return float(value)
    except OverflowError:
        return 0.0  # an int, of more digits than a float has


@pytest.mark.parametrize(
    "name, last, first_beyond, allowed",
    [
        ("--clip-high", "1000", "1000.1", "a number from 0 to 1000"),
        ("--warm-start-lr", "1", "1e30", "a number above 0 and at most 1"),
        ("--invalid-reward", "-100", "-1e300", "a number from -100 to 100"),
        ("--extreme-reward", "100", "1e300", "a number from -100 to 100"),
        ("--entropy-coef", "1e6", "1e300", "a number of at least 0 and at most 1000000"),
        ("--proposer-weight", "1e6", "1e300", "a number above 0 and at most 1000000"),
        ("--total-steps", "1000000", "1000001", "an integer of at least 0 and at most 1000000"),
        ("--batch-size", "1000000", "9" * 4000, "an integer of at least 1 and at most 1000000"),
        ("--n-references", "1000000", "9" * 5000, "an integer of at least 1 and at most 1000000"),
    ],
)
def test_the_end_itself_is_allowed(name, last, first_beyond, allowed):
    assert parse_args([f"{name}={last}"])
    with pytest.raises(ArgumentError) as caught:
        parse_args([f"{name}={first_beyond}"])
    said = str(caught.value)
    assert said.endswith(f": must be {allowed}") and len(said) < 200


def test_a_field_without_limits_gets_the_general_ones():
    @dataclass
    class Given:
        count: int = flag(1, "of something")
        share: float = flag(1.0, "of something")

    for item in fields(Given):
        for value in (LIMIT, -LIMIT):
            check(item, value)
        for value in (LIMIT + 1, -LIMIT - 1):
            with pytest.raises(ArgumentError, match=f"from -{LIMIT} to {LIMIT}"):
                check(item, value)


@pytest.mark.parametrize("item", TEXTS, ids=lambda item: item.name)
@pytest.mark.parametrize("text", ["runs/\udcff", "a\nb", "a\x1b[31m", "a\0b", "a\u2028b"])
def test_text_that_no_sentence_could_show_is_refused(item, text, capsys):
    status = train.main([f"{flag_name(item.name)}={text}"])
    said = capsys.readouterr().err
    assert status == 2 and said.startswith(f"{flag_name(item.name)} ")
    assert said.endswith("\n") and said[:-1].isprintable() and ": must be " in said


@pytest.mark.parametrize("name", ["--model", "--output"])
def test_other_commands_refuse_it_too(name, capsys):
    assert baselines.main([name, "runs/\udcff"]) == 2
    said = capsys.readouterr().err
    assert said == f"{name} 'runs/\\udcff': must be text in UTF-8 without control characters\n"


@pytest.mark.slow
def test_bytes_that_are_no_text_on_a_real_command_line(tmp_path):
    (tmp_path / "given").mkdir()
    for name in (b"--model", b"--run-dir", b"--run-name", b"--resume", b"--lr", b"--no-such"):
        command = [sys.executable, str(ROOT / "model" / "train.py"), name, b"m\xff"]
        result = subprocess.run(command, cwd=tmp_path / "given", capture_output=True, check=False)
        said = result.stderr.decode("utf-8")
        assert result.returncode == 2 and len(said.splitlines()) == 1, said
        assert said.startswith(name.decode()) and said[:-1].isprintable()
    assert list((tmp_path / "given").iterdir()) == []


def test_names_that_are_only_foreign_are_kept():
    name = "läufe/試行 ≡ 1"
    assert parse_args(["--run-dir", name]).run_dir == name and shown(name) == name
    assert shown("\udcff") == "'\\udcff'" and len(shown("x" * 5000)) < 110


# ---------------------------------------------------------------- a command line of every kind


@dataclass(frozen=True)
class Drawing(Flags):
    run_dirs: tuple[str, ...] = positional("RUN_DIR", "finished runs")
    width: float = flag(1.0, "of a line")
    dots: int | None = flag(None, "of an inch", least=1)
    again: str | None = flag(None, "what is drawn again", bare="all")
    only: tuple[str, ...] = flag((), "what is drawn", choices=("a", "b"), repeatable=True)
    frame: bool = flag(True, "around it")
    from_: str | None = flag(None, "where it was")


RUN = ("run",)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("run", Drawing(RUN)),
        ("one two", Drawing(("one", "two"))),
        ("one --dots 3 two", Drawing(("one", "two"), dots=3)),
        ("--dots 3 -- one --two", Drawing(("one", "--two"), dots=3)),
        ("run --width -1e-3", Drawing(RUN, width=-0.001)),
        ("run --width -.5", Drawing(RUN, width=-0.5)),
        ("run --width=-2E+1", Drawing(RUN, width=-20.0)),
        ("run --width 1 --width 2", Drawing(RUN, width=2.0)),
        ("run --again", Drawing(RUN, again="all")),
        ("--again --dots 3 run", Drawing(RUN, again="all", dots=3)),
        ("run --again this", Drawing(RUN, again="this")),
        ("run --again=this", Drawing(RUN, again="this")),
        ("run --again=", Drawing(RUN, again="")),
        ("run --only a --only=b --only a", Drawing(RUN, only=("a", "b", "a"))),
        ("run --no-frame", Drawing(RUN, frame=False)),
        ("run --no-frame --frame", Drawing(RUN)),
        ("run --from there=here", Drawing(RUN, from_="there=here")),
    ],
)
def test_what_a_command_line_means(line, wanted):
    assert parse(Drawing, line.split(), about="Draws.") == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "RUN_DIR: must be given, once or several times"),
        ("run --dots", "--dots: expected one argument"),
        ("run --dots 1 --dots", "--dots: expected one argument"),
        ("run --dots --frame", "--dots: expected one argument, not the flag --frame"),
        ("run --from --width=2", "--from: expected one argument, not the flag --width=2"),
        ("run --from --help", "--from: expected one argument, not the flag --help"),
        ("run --frame=yes", "--frame=yes: must be given without a value"),
        ("run --no-frame=no", "--no-frame=no: must be given without a value"),
        ("run --help=no", "--help=no: must be given without a value"),
        ("run --wid 1", "--wid: is not a flag of this program; did you mean --width?"),
        ("run --widht=1", "--widht=1: is not a flag of this program; did you mean --width?"),
        ("run -3", "-3: is not a flag of this program; --help lists the flags"),
        ("run --only c", "--only c: must be a or b"),
        ("run --only a,b", "--only a,b: must be a or b"),
        ("run --dots 0", "--dots 0: must be an integer of at least 1 and at most 1000000"),
        ("run --dots 1.5", "--dots 1.5: must be an integer of at least 1 and at most 1000000"),
        ("--width wide --dots 0", "--width wide: must be a number from -1000000 to 1000000"),
        ("r\udcffn", "RUN_DIR 'r\\udcffn': must be text in UTF-8 without control characters"),
        ("run --\udcff 1", "'--\\udcff': is not a flag of this program; --help lists the flags"),
    ],
)
def test_a_wrong_command_line_is_refused_by_one_sentence(line, said):
    with pytest.raises(ArgumentError) as caught:
        parse(Drawing, line.split(), about="Draws.")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(), "RUN_DIR: must be given"),
        (dict(run_dirs="run"), "RUN_DIR run: must be a tuple"),
        (dict(run_dirs=("a\nb",)), "RUN_DIR 'a\\nb': must be text"),
        (dict(run_dirs=RUN, only=["a"]), "--only ['a']: must be a tuple"),
        (dict(run_dirs=RUN, only=("c",)), "--only c: must be a or b"),
        (dict(run_dirs=RUN, from_=3), "--from 3: must be text"),
    ],
)
def test_a_command_built_in_python_is_checked_by_the_same_rules(given, said):
    with pytest.raises(ArgumentError) as caught:
        Drawing(**given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("line", ["--help", "-h", "run --dots 3 --help", "--dots none --help"])
def test_help_is_shown_whatever_else_is_given(line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Drawing, line.split(), about="Draws.")
    page = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "RUN_DIR... finished runs" in page and "--frame / --no-frame around it [True]" in page
    assert "--again [AGAIN] what is drawn again" in page and "--only a|b what" in page
