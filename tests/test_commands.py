"""Every command has one style: a wrong flag is one sentence and exit status 2, --help is a page and 0.
Oracles: that promise, and the fields of each command's dataclass."""

import subprocess
import sys
from dataclasses import fields

import pytest

from constants import ROOT
from model import play, train
from model.args import AZRArgs
from model.eval import baselines, collapse, plots, report, study, summary
from model.flags import flag_name

COMMANDS = {
    train: AZRArgs, play: play.PlayArgs, baselines: baselines.BaselineArgs, study: study.StudyArgs,
    collapse: collapse.CollapseArgs, report: report.ReportArgs, summary: summary.SummaryArgs,
    plots: plots.PlotArgs,
}  # fmt: skip
BENCHMARKS = [
    file
    for file in sorted((ROOT / "tests" / "benchmarks").glob("*.py"))
    if "__main__" in file.read_text(encoding="utf-8")
]


def name_of(value) -> str:
    return getattr(value, "__name__", None) or getattr(value, "stem", "")


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_help_is_a_page_with_every_flag_and_its_default(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    printed, complained = capsys.readouterr()
    page = " ".join(printed.split())
    assert ended.value.code == 0 and complained == ""
    for item in fields(COMMANDS[command]):
        assert (item.metadata["positional"] or flag_name(item.name)) in page
        assert item.default in (None, "", ()) or f"[{item.default}]" in page


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--no-such", "1"], "--no-such: is not a flag of this program; "),
        (["--hepl"], "--hepl: is not a flag of this program; did you mean --help?"),
        (["-x"], "-x: is not a flag of this program; "),
    ],
)
def test_what_is_no_flag_is_one_sentence(command, argv, said, capsys):
    assert command.main(argv) == 2
    printed, complained = capsys.readouterr()
    assert printed == "" and complained.startswith(said)
    assert len(complained.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "argv", "said"),
    [
        (
            study,
            ["--grid", "arm"],
            "--grid arm: must be arms or reasoner or variants or controls or growth",
        ),
        (study, ["--seeds", "0"], "--seeds 0: must be an integer from 1 to 100"),
        (study, ["--first-seed", "-1"], "--first-seed -1: must be an integer from 0 to 9999"),
        (study, ["--grid", "growth", "--only", "self"], "--only self: must name a condition of"),
        (study, ["--grid", "arms", "--only", "yoked"], "--only yoked: must name self too"),
        (study, ["--only", "self", "yoked"], "yoked: is not a flag of this program; "),
        (study, ["--flags", "--lr fast"], "--flags: --lr fast: must be a number above 0"),
        (study, ["--flags", "--lr '1"], "--flags: must be words of a shell (No closing quotation)"),
        (study, ["--flags", "--seed 3"], "--flags --seed 3: must not hold --seed, which the study"),
        (study, ["--flags", "--model=smollm2"], "--flags --model=smollm2: must not hold --model, "),
        (study, ["--flags", "--resume"], "--flags --resume: must not hold --resume, which"),
        (study, ["--flags", "--no-quiet"], "--flags --no-quiet: must not hold --quiet, which"),
        (study, ["--flags", "--lr 1 --plan"], "--flags --lr 1 --plan: must not hold --plan, which"),
        (
            study,
            ["--flags", "--refill uniform"],
            "--flags --refill uniform: must not hold --refill, which",
        ),
        (
            study,
            ["--grid", "growth", "--flags", "--total-steps 3"],
            "--flags --total-steps 3: must not hold --total-steps, which the study",
        ),
        (
            study,
            ["--from", "a", "--flags", "--lr 1"],
            "--flags --lr 1: must not be given with --from",
        ),
        (study, ["--from", "a", "--seeds", "9"], "--seeds 9: must not be given with --from"),
        (study, ["--from", "/no/such"], "--from /no/such: must be logs of a study ("),
        (
            study,
            ["--grid", "growth", "--from", str(ROOT / "diagrams/arms.jsonl.gz")],
            f"--from {ROOT / 'diagrams/arms.jsonl.gz'}: must hold what --grid growth compares, not self, ",
        ),
        (collapse, ["--total-steps", "0"], "--total-steps 0: must be an integer from 1 to 10000"),
        (collapse, ["--seeds=101"], "--seeds 101: must be an integer from 1 to 100"),
        (summary, [], "RUN_DIR: must be given"),
        (plots, [], "RUN_DIR: must be given"),
        (report, ["--output"], "--output: expected one argument"),
        (report, ["--output", "--output"], "--output: expected one argument, not the flag"),
    ],
)
def test_a_wrong_value_is_one_sentence(command, argv, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(argv) == 2
    printed, complained = capsys.readouterr()
    assert printed == "" and complained.startswith(said), complained
    assert len(complained.splitlines()) == 1 and list(tmp_path.iterdir()) == []


# A file started as a program with one argument after another, in one process: they take seconds to import.
STARTED = """
import runpy, sys
file, folder, *given = sys.argv[1:]
for word in given:
    sys.argv, sys.path[0] = [file, word], folder
    try:
        runpy.run_path(file, run_name="__main__")
    except SystemExit as ended:
        print("ended", ended.code, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("file", BENCHMARKS, ids=name_of)
def test_benchmarks_have_the_same_style(file, tmp_path):
    command = [sys.executable, "-c", STARTED, str(file), str(file.parent), "--no-such=1", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    refused, *page, last = done.stdout.splitlines()
    assert (done.returncode, refused, last) == (0, "ended 2", "ended 0")
    assert any("--help" in line for line in page)
    assert done.stderr.startswith("--no-such=1: is not a flag of this program; ")
    assert len(done.stderr.splitlines()) == 1
    assert len(BENCHMARKS) == 8 and list(tmp_path.iterdir()) == []
