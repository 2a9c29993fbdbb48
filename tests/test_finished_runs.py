"""The one reader of runs. Oracles: folders made by hand, and the files of the committed runs read line by
line."""

import json
from pathlib import Path

import pytest

from constants import ROOT
from custom_types import Problem, TaskType
from model.args import AZRArgs
from model.run.finished import FinishedRun, evaluated_rows, is_run, read_runs
from model.run.rows import RunDirectoryError
from model.run.yoking import proposed_problems

COMMITTED = sorted((ROOT / "diagrams" / "runs").iterdir())
STEPS = 3


@pytest.fixture
def by_hand(tmp_path) -> Path:
    """A run of 3 steps whose version had four arguments, and no evaluations.jsonl. In step k the problem
    2 * 3 = 1 (mod 5) was proposed k times and 3 * 2 attempted alone, and of induction two were proposed."""
    folder = tmp_path / "first"
    newest = folder / "checkpoints" / "step_000003"
    newest.mkdir(parents=True)
    args = {"seed": 7, "min_prime": 5, "max_prime": 13, "total_steps": STEPS}
    (folder / "config.json").write_text(json.dumps({"args": args, "git_commit": "abc+"}))
    metrics = [{"step": step, "loss": step / 2} for step in range(STEPS + 1)]
    metrics[0]["eval/accuracy"] = metrics[3]["eval/accuracy"] = 0.5
    problems = [
        {
            "step": step,
            "abduction": [[2, 3, 5, step, 0.5], [3, 2, 5, 0, 1.0]],
            "deduction": [],
            "induction": [[2, 4, 7, 1, 0.0], [3, 4, 11, 2, 0.25]],
        }
        for step in range(1, STEPS + 1)
    ]
    for name, rows in (("metrics", metrics), ("problems", problems)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "checkpoints" / "latest").write_text("step_000003\n")
    counted = [
        ["deduction", 2, 3, 5, 1, 4],
        ["abduction", 3, 5, 7, 0, 0],
        ["induction", 2, 4, 7, 1, 1],
    ]
    (newest / "trainer.json").write_text(json.dumps({"problems": {"problems": counted}}))
    return folder


def test_what_a_folder_holds(by_hand):
    run = FinishedRun(by_hand)
    assert (run.name, run.git_commit, run.config["args"]["seed"]) == ("first", "abc+", 7)
    assert (
        run.args["total_steps"] == STEPS and run.args["n_attempts"] == 8
    )  # its own, and a default
    assert run.azr_args == AZRArgs(seed=7, max_prime=13, total_steps=STEPS)
    assert [row["loss"] for row in run.metrics] == [0, 0.5, 1, 1.5]
    assert [row["step"] for row in evaluated_rows(run.metrics)] == [0, 3]
    assert [row["abduction"][0][3] for row in run.problems] == [1, 2, 3]
    assert (run.evaluations, run.rollouts) == ([], [])
    assert run.newest_checkpoint == by_hand / "checkpoints" / "step_000003"
    # Of the three problems that the checkpoint knows, two have answers that were trained on.
    deduction = Problem(TaskType.DEDUCTION, 2, 3, 5)
    assert run.trained_on == {deduction, Problem(TaskType.INDUCTION, 2, 4, 7)}


def test_a_file_is_read_when_it_is_asked_for_and_once(by_hand):
    run = FinishedRun(by_hand)
    (by_hand / "metrics.jsonl").write_text("damaged\n")
    problems = run.problems
    for name in ("config.json", "problems.jsonl"):
        (by_hand / name).unlink()
    assert run.problems is problems and run.args["seed"] == 7
    with pytest.raises(RunDirectoryError, match="metrics.jsonl, line 1: must be JSON"):
        _ = run.metrics
    with pytest.raises(RunDirectoryError, match="it has no config.json"):
        _ = FinishedRun(by_hand).args


def test_a_run_is_told_by_its_metrics(by_hand):
    assert is_run(by_hand) and is_run(str(by_hand))
    assert not is_run(by_hand / "checkpoints") and not is_run(by_hand / "none")


def test_an_argument_that_this_version_does_not_have(by_hand):
    """Its curves can be shown, and it cannot be continued or asked."""
    config = json.loads((by_hand / "config.json").read_text())
    config["args"]["top_k"] = 50
    (by_hand / "config.json").write_text(json.dumps(config))
    run = FinishedRun(by_hand)
    assert run.args["top_k"] == 50 and len(run.problems) == STEPS
    with pytest.raises(
        RunDirectoryError, match="config.json: has top_k, which this version does not"
    ):
        _ = run.azr_args


def test_a_checkpoint_that_counts_no_answers(by_hand):
    (by_hand / "checkpoints" / "step_000003" / "trainer.json").write_text('{"problems": 3}')
    with pytest.raises(RunDirectoryError, match="step_000003: counts no answers"):
        _ = FinishedRun(by_hand).trained_on


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_committed_runs_of_older_versions_are_read(folder):
    run = FinishedRun(folder)
    for name in ("metrics", "problems", "evaluations", "rollouts"):
        file = folder / f"{name}.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        assert getattr(run, name) == [json.loads(line) for line in lines]
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert run.git_commit == saved["git_commit"]
    assert run.args == AZRArgs().as_dict() | saved["args"]
    assert run.azr_args.as_dict() == run.args


def test_runs_are_told_apart(tmp_path):
    """By folder, or by path where folders of one name are compared."""
    seed0, seed1 = tmp_path / "self" / "seed0", tmp_path / "self" / "seed1"
    assert [run.name for run in read_runs([seed0, seed1])] == ["seed0", "seed1"]
    others = [seed0, tmp_path / "uniform" / "seed0"]
    assert [run.name for run in read_runs(others)] == list(map(str, others))


# ---------------------------------------------------------------- what a yoked run follows


def yoked(folder: Path, **changes) -> AZRArgs:
    settings = dict(max_prime=13, total_steps=STEPS, yoked_to=str(folder)) | changes
    return AZRArgs(proposer="yoked", **settings)


def test_a_yoked_run_follows_what_was_proposed(by_hand):
    """Distinct problems, however often they were proposed; those attempted alone are left out."""
    each = [
        Problem(TaskType.ABDUCTION, 2, 3, 5),
        Problem(TaskType.INDUCTION, 2, 4, 7),
        Problem(TaskType.INDUCTION, 3, 4, 11),
    ]
    assert proposed_problems(yoked(by_hand)) == {1: each, 2: each, 3: each}


def test_numbers_that_are_no_problem_are_refused_by_line(by_hand):
    text = (by_hand / "problems.jsonl").read_text()
    (by_hand / "problems.jsonl").write_text(text.replace("[2, 4, 7, 1, 0.0]", "[2, 5, 7, 1, 0.0]"))
    with pytest.raises(RunDirectoryError, match="line 1: 2 . 5 is not 1 modulo 7"):
        proposed_problems(yoked(by_hand))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(total_steps=4), "must have the 4 steps of --total-steps; it has 3"),
        (dict(max_prime=31), "must be a run with primes 5 to 31"),
        (dict(yoked_to="nowhere"), "--yoked-to nowhere: must be a run directory"),
    ],
)
def test_a_run_that_cannot_be_followed_is_refused(by_hand, changes, said):
    with pytest.raises(RunDirectoryError, match=said):
        proposed_problems(yoked(by_hand, **changes))
