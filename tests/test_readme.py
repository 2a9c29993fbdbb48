"""The README and the pages of the rooms against the program. Oracle: the dataclass, the presets, the
files and flags that they name."""

import doctest
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from textwrap import indent

import pytest

from constants import CARDS, ROOT, SMOLLM2_INSTALL
from model.args import AZRArgs, parse_args
from model.plan.plan import plan
from model.presets import CHAT_PRESET, LORA_PRESET, REASONER_PRESET, SMOLLM2_PRESET

ROOMS = ("compute", "model", "model/eval", "model/run", "tests/benchmarks", "utils/environments")
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md", *(f"{room}/README.md" for room in ROOMS))
}
README, MODEL = PAGES["README.md"], PAGES["model/README.md"]
FILE = r"(?:\w[\w-]*/)*[\w-]+\.(?:py|md|gz|png|html)"
SHELL = re.compile(r"[|>&]|\*|\{|\$")  # what a command line has beside the arguments of one program
LONGEST_README = 200  # lines: a first reading, not a manual


def shown(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def flag_table() -> str:
    """The table of flags in model/README.md: what each preset has, and the help."""
    lines = ["| flag | tiny | reasoner | smollm2 | chat models | |", "|---|---|---|---|---|---|"]
    for item in fields(AZRArgs):
        presets = ({}, REASONER_PRESET, SMOLLM2_PRESET, CHAT_PRESET)
        values = [shown(preset.get(item.name, item.default)) for preset in presets]
        if item.name == "model":
            values[1:] = ["reasoner", "smollm2", ""]
        flag = f"`--{item.name.replace('_', '-')}`"
        lines.append(f"| {flag} | {' | '.join(values)} | {item.metadata['help']} |")
    return "\n".join(lines)


def anchors(page: str) -> set[str]:
    """What GitHub calls the headings of a page: in small letters, without punctuation, with hyphens."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^ {4}.*$", "", page, flags=re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def commands(page: str) -> list[list[str]]:
    """Each `python FILE ...` of a page, in its blocks and in its sentences, as words."""
    blocks = re.findall(r"^ {4,}(?:nohup )?(python .+)$", page, re.M)
    found = [line.split("  #")[0] for line in blocks + re.findall(r"`(python [^`]+)`", page)]
    plain = [SHELL.split(" ".join(line.split()))[0] for line in found]
    return [words for words in map(shlex.split, plain) if words[1].endswith(".py")]


def scripts() -> set[str]:
    return {words[1] for page in PAGES.values() for words in commands(page)}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= LONGEST_README


def test_every_page_is_among_the_pages():
    """By hand, so that a new page is read by these tests."""
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    outside = {
        path for path in found if path.parts[0] in ("venv", "runs") or path.parts[0][0] == "."
    }
    assert {path.as_posix() for path in found if path not in outside} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_picture_leads_somewhere(name):
    page, folder = PAGES[name], (ROOT / name).parent
    targets = re.findall(r"\]\(([^)\s]+)\)", page) + re.findall(r'src="([^"]+)"', page)
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


def test_each_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", README))
    assert PAGES.keys() - {"README.md"} <= linked


@pytest.mark.parametrize("name", PAGES)
def test_every_file_it_names_exists(name):
    """By its path from the root or, in the page of a room, from there."""
    folder, made = (ROOT / name).parent, re.compile(r"^(report|comparison|baselines|accuracy)\.")
    for path in re.findall(rf"`({FILE})`", PAGES[name]):
        if not made.match(path):  # what a command leaves
            assert (ROOT / path).exists() or (folder / path).exists(), f"{name}: {path}"


def test_folders_it_names_exist():
    for name, page in PAGES.items():
        for path in re.findall(r"`((?:\w+/)+)`", page):
            folder = (ROOT / name).parent
            known = (ROOT / path).is_dir() or (folder / path).is_dir()
            assert known or path in ("plots/", "checkpoints/"), f"{name}: {path}"


@pytest.mark.parametrize("name", PAGES)
def test_what_it_trains_with_are_flags_of_the_program(name):
    """Every command line of model/train.py is parsed as the program does. Raises ArgumentError."""
    for words in commands(PAGES[name]):
        if words[1] == "model/train.py" and "--help" not in words:
            parse_args(words[2:])


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(scripts() - {"model/train.py"}))
def test_the_flags_of_other_commands_are_in_their_help(script):
    help_text = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    used = {
        word
        for page in PAGES.values()
        for words in commands(page)
        if words[1] == script
        for word in words[2:]
        if word.startswith("--")
    }
    assert used <= set(re.findall(r"--[\w-]+", help_text))


def test_the_reader_of_commands_sees_them():
    # By hand, so that an empty answer cannot let everything pass.
    assert {"model/train.py", "model/eval/study.py", "tests/benchmarks/growth.py"} <= scripts()
    words = ["python", "model/train.py", "--resume", "--run-dir", "runs/first"]
    assert words in commands(README) and words in commands(PAGES["model/run/README.md"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAGES if ">>> " in PAGES[name]])
def test_what_it_reads_off_the_logs_stands_there(name, monkeypatch):
    """Oracle: the committed logs."""
    monkeypatch.chdir(ROOT)
    failed, tried = doctest.testfile(str(ROOT / name), module_relative=False, encoding="utf-8")
    assert tried and not failed


def test_the_table_of_flags_is_that_of_the_dataclass():
    assert flag_table() in MODEL


def test_cards_and_their_presets_are_named():
    assert all(f"`{card}`" in MODEL for card in CARDS)
    for name, value in LORA_PRESET.items():
        assert f"`--{name.replace('_', '-')} {shown(value)}`" in MODEL, name


def test_the_line_that_installs_smollm2_is_there():
    assert f"`{SMOLLM2_INSTALL}`" in README


def test_the_plan_it_shows_is_the_plan():
    text, fits = plan(parse_args(["--plan"]))
    assert fits and indent(text, "    ") in MODEL
