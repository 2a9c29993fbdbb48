"""Commands that read runs, on runs that an editor, a copy or a disk has been at. Oracle: one sentence that
names the file, and exit status 2; or the tables and pictures of what is whole."""

import json
from pathlib import Path

import pytest
from helpers.run_contents import main_here

from model.eval import baselines, plots, report, summary
from model.run.checkpoints import damage
from model.run.finished import FinishedRun
from model.run.rows import RunDirectoryError

READERS = {"report": report.main, "summary": summary.main, "plots": plots.main}


def edit(file: Path, change) -> None:
    """Have `change` edit the JSON of a file, or of a log's second line."""
    lines = file.read_text().splitlines()
    if file.suffix == ".jsonl":
        row = json.loads(lines[1])
        lines[1] = json.dumps(change(row) or row)
        file.write_text("\n".join(lines) + "\n")
    else:
        content = json.loads("\n".join(lines))
        file.write_text(json.dumps(change(content) or content))


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


DAMAGE = {  # of a file: what is done to it, and what of it the sentence names
    "config cut off": ("config.json", cut, "config.json: must be JSON"),
    "config of nothing": ("config.json", lambda file: file.write_bytes(b""), "config.json"),
    "config of bytes": ("config.json", lambda file: file.write_bytes(b"\xff\xfe\x00"), "UTF-8"),
    "config is a list": ("config.json", lambda file: file.write_text("[1]"), "JSON object"),
    "config without arguments": ("config.json", lambda f: edit(f, lambda c: {"device": 1}), "arg"),
    "config gone": ("config.json", Path.unlink, "it has no config.json"),
    "another range": (
        "config.json",
        lambda file: edit(file, lambda c: c["args"].update(max_prime=7)),
        "problems.jsonl, line",
    ),
    "a word for a number": (
        "config.json",
        lambda file: edit(file, lambda c: c["args"].update(n_attempts="two")),
        "config.json: --n-attempts two: must be an integer",
    ),
    "no number allowed": (
        "config.json",
        lambda file: edit(file, lambda c: c["args"].update(max_prime=4)),
        "config.json: --max-prime 4: must be",
    ),
    "metrics damaged": (
        "metrics.jsonl",
        lambda file: file.write_bytes(file.read_bytes().replace(b'"step": 3', b'"step: 3')),
        "metrics.jsonl, line",
    ),
    "metrics without a step": (
        "metrics.jsonl", lambda f: edit(f, lambda row: {"loss": 1.0}), "line 2: has no step"
    ),
    "metrics without a key": (
        "metrics.jsonl",
        lambda file: edit(file, lambda row: row.pop("step_time") and row),
        "line 2: has no step_time",
    ),
    "a word among the metrics": (
        "metrics.jsonl", lambda f: edit(f, lambda row: row.update(loss="low")), "line 2: loss must"
    ),
    "nothing where time was measured": (
        "metrics.jsonl",
        lambda file: edit(file, lambda row: row.update(step_time=None)),
        "line 2: step_time must be a number",
    ),
    "metrics of zeros": ("metrics.jsonl", lambda f: f.write_bytes(bytes(99) + b"\n"), "line 1"),
    "a problem of no prime": (
        "problems.jsonl",
        lambda file: edit(file, lambda row: row.update(abduction=[[1, 1, 8, 1, 0.5]])),
        "line 2: abduction must hold problems of primes 5 to 13",
    ),
    "a problem cut short": (
        "problems.jsonl",
        lambda file: edit(file, lambda row: row.update(induction=[[1, 1, 5]])),
        "line 2: induction",
    ),
    "a task gone": (
        "problems.jsonl", lambda f: edit(f, lambda row: {"step": 2}), "has no abduction"
    ),
    "an answer of no kind": (
        "evaluations.jsonl",
        lambda file: edit(file, lambda row: row.update(deduction=[[1, 1, 5, "yes"]])),
        "evaluations.jsonl, line 2: deduction",
    ),
    "transcripts damaged": ("rollouts.jsonl", lambda f: f.write_text("{]\n"), "rollouts.jsonl"),
}  # fmt: skip
BLIND = {  # what these do not read
    "summary": {"evaluations.jsonl", "rollouts.jsonl"},
    "plots": {"evaluations.jsonl", "rollouts.jsonl"},
}


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named_in_a_sentence(copy, capsys, command, kind):
    name, change, said = DAMAGE[kind]
    change(copy / name)
    status = READERS[command]([str(copy)])
    printed, complained = capsys.readouterr()
    unread = name in BLIND.get(command, ()) or (
        kind == "metrics without a key" and command == "plots"
    )
    if unread:
        assert status == 0 and complained == ""
    else:
        assert status == 2 and printed == ""
        (sentence,) = complained.strip().splitlines()
        assert said in sentence and sentence.startswith(str(copy))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if DAMAGE[kind][0] == "config.json"])
def test_training_says_it_too(copy, kind):
    """A checkpoint has the arguments, so that a config.json that is lost is only said to be."""
    name, change, _ = DAMAGE[kind]
    change(copy / name)
    result = main_here("--resume", "--run-dir", str(copy))
    refused = kind in ("another range", "a word for a number", "no number allowed")
    assert result.returncode == (2 if refused else 0)
    assert len(result.stderr.strip().splitlines()) == (kind != "config gone")
    if kind != "config gone":
        assert result.stderr.startswith(f"{copy}/config.json: ")


@pytest.mark.slow
def test_half_a_last_line_is_no_row_yet(half, copy, capsys):
    for name in ("metrics", "problems", "evaluations", "rollouts"):
        with open(copy / f"{name}.jsonl", "ab") as log:
            log.write(b'{"step": 21, "abduc')
    assert FinishedRun(copy).metrics == FinishedRun(half).metrics
    assert FinishedRun(copy).problems == FinishedRun(half).problems
    for command in READERS.values():
        assert command([str(copy)]) == 0, capsys.readouterr().err


def test_windows_line_ends_are_read(half, copy):
    log = copy / "metrics.jsonl"
    log.write_bytes(log.read_bytes().replace(b"\n", b"\r\n"))
    assert FinishedRun(copy).metrics == FinishedRun(half).metrics


# ---------------------------------------------------------------- checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("step_000099\n", "names step_000099, which is not there"),
        ("../../elsewhere\n", "must name a checkpoint, and holds '../../elsewhere'"),
        ("", "must name a checkpoint"),
        ("/etc\n", "must name a checkpoint"),
        (None, "is no run directory with a finished checkpoint"),
    ],
)
def test_a_latest_that_names_nothing(whole, copy, capsys, named, said):
    """`--resume` looks for itself, and mends it."""
    pointer = copy / "checkpoints" / "latest"
    pointer.unlink() if named is None else pointer.write_text(named)
    with pytest.raises(RunDirectoryError, match="checkpoint") as error:
        _ = FinishedRun(copy).newest_checkpoint
    assert said in str(error.value)
    assert baselines.main(["--model", str(copy)]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert said in sentence and sentence.startswith(f"--model {copy}: ")
    assert main_here("--resume", "--run-dir", str(copy)).returncode == 0
    assert FinishedRun(copy).newest_checkpoint.name == "step_000020"


@pytest.mark.parametrize("change", [cut, Path.unlink, lambda f: f.write_text('{"problems": 3}')])
def test_a_checkpoint_without_its_state_is_no_model_to_compare(copy, capsys, change):
    change(copy / "checkpoints" / "step_000020" / "trainer.json")
    assert baselines.main(["--model", str(copy)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["../secret.txt", "{tmp}/secret.txt", "a/../../secret.txt"])
def test_a_manifest_is_of_what_is_in_its_folder(copy, tmp_path, outside):
    """Else what is read, and said to differ, is any file of this machine."""
    newest = copy / "checkpoints" / "step_000020"
    (newest.parent / "secret.txt").write_text("secret")
    name = outside.format(tmp=tmp_path)
    edit(newest / "manifest.json", lambda manifest: manifest.update({name: [6, "0" * 64]}))
    assert damage(newest) == f"its manifest.json lists {name}, which is outside of it"
    result = main_here("--resume", "--run-dir", str(copy))
    assert result.returncode == 0 and f"{newest}: skipped, its manifest.json" in result.stderr


@pytest.mark.parametrize("entry", [None, 3, "x", [1], [1, 2, 3], ["x", "y"], {"size": 1}])
def test_a_manifest_of_another_form(copy, entry):
    newest = copy / "checkpoints" / "step_000020"
    edit(newest / "manifest.json", lambda manifest: manifest.update(model=entry))
    assert damage(newest) in (
        "its manifest.json is missing or unreadable",
        "its model cannot be read",
    )
