"""The scale that accuracies are read on. Oracles: the exact solver, counts by hand, a run's own log,
the trainer's own rollouts.
"""

import json
from collections import Counter

import pytest
from helpers.trainers import make_trainer
from huggingface_hub import is_offline_mode
from test_cli import command

from constants import ROOT
from custom_types import TASKS, Problem, Role, TaskType
from model.args import AZRArgs
from model.eval import baselines
from model.eval.baselines import (
    BaselineArgs,
    baseline_scores,
    problem_args,
    problems_asked,
    trained_on,
)
from model.eval.scores import ALL, HELD_OUT, SEEN, UNSEEN, bands, score_rows
from model.flags import ArgumentError
from prime_inversion import all_problems, is_held_out, primes_between


def accuracies(rows: list[dict], policy: str, band: str = ALL) -> dict[str, float]:
    return {
        row["task"]: row["accuracy"]
        for row in rows
        if row["policy"] == policy and row["band"] == band
    }


def test_held_out_problems_alone():
    """Those of the definition, and with the default all."""
    every = [p for task in TASKS for p in all_problems(task, 5, 31)]
    for share in (0.0, 0.2):
        given = BaselineArgs(held_out=share)
        wanted = {p for p in every if is_held_out(p, share)} if share else set(every)
        found = problems_asked(given, problem_args(given))
        assert set(found) == wanted and len(found) == len(wanted) > 60
    with pytest.raises(ArgumentError, match="--held-out 0.2 --min-prime 29 .* of 28"):
        problem_args(BaselineArgs(held_out=0.2, min_prime=29, max_prime=29))


def test_large_primes_alone_within_a_range():
    """The prompts of a run keep the range that `problem_args` says; 29 and 31 have 28 + 30 residues."""
    given = BaselineArgs(asked_from=25, samples=2)
    args = problem_args(given)
    assert (args.min_prime, args.max_prime) == (5, 31)
    found = Counter(problems_asked(given, args))
    assert {p.p for p in found} == {29, 31} and set(found.values()) == {2}
    assert sum(p.task is TaskType.DEDUCTION for p in found) == 28 + 30
    with pytest.raises(ArgumentError, match="--asked-from 32: must leave some .* 5 to 31"):
        problems_asked(BaselineArgs(asked_from=32), args)


@pytest.mark.slow
def test_the_exact_solver_is_perfect_up_to_the_largest_prime():
    """It checks the judge and the answer format over a sample of the whole range."""
    given = BaselineArgs(max_prime=617, num_problems=60, samples=2)
    args = problem_args(given)
    rows = score_rows(
        "exact", baseline_scores(args, problems_asked(given, args), 0.0)["exact solver"], 2, args
    )
    assert {row["accuracy"] for row in rows if row["n"]} == {1.0}
    assert {row["pass@2"] for row in rows if row["n"]} == {1.0}


def test_always_1_solves_what_1_solves():
    """x * 1 and 1 * y, one problem a prime; 1 is no prime."""
    given = BaselineArgs(max_prime=13)
    args = problem_args(given)
    rows = score_rows(
        "always 1", baseline_scores(args, problems_asked(given, args), 0.0)["always 1"], 1, args
    )
    assert accuracies(rows, "always 1") == {
        "abduction": 4 / 32,
        "deduction": 4 / 32,
        "induction": 0,
    }


def test_bands_are_the_primes_in_order_and_the_same_for_every_range():
    assert bands(5, 31) == {
        "5-7": (5, 7), "11-13": (11, 13), "17-19": (17, 19), "23-31": (23, 29, 31)
    }  # fmt: skip
    assert bands(7, 11) == {"7": (7,), "11": (11,)}
    for first, last in ((5, 617), (11, 13), (23, 617), (613, 617)):
        joined = [p for primes in bands(first, last).values() for p in primes]
        assert joined == list(primes_between(first, last))


def test_rows_by_hand():
    a, b, c = (
        Problem(TaskType.DEDUCTION, x, y, p) for x, y, p in ((2, 3, 5), (3, 5, 7), (2, 6, 11))
    )
    scores = {a: 2, b: 1, c: 0}  # of 2 samples each
    rows = score_rows("one", scores, 2, AZRArgs(max_prime=11), seen={a})
    by_band = {row["band"]: row for row in rows if row["task"] == "deduction"}
    assert {band: row["n"] for band, row in by_band.items()} == {
        ALL: 3, "5-7": 2, "11": 1, SEEN: 1, UNSEEN: 2, HELD_OUT: 0
    }  # fmt: skip
    assert by_band[ALL]["accuracy"] == by_band[ALL]["pass@1"] == 0.5
    assert by_band[ALL]["pass@2"] == pytest.approx(2 / 3)
    assert by_band[SEEN]["accuracy"] == 1 and by_band[UNSEEN]["accuracy"] == 0.25
    assert by_band[ALL]["low"] < 0.5 < by_band[ALL]["high"]
    empty = [row for row in rows if row["task"] == "abduction"]
    assert {row["n"] for row in empty} == {0} and {row["accuracy"] for row in empty} == {None}


@pytest.mark.slow
def test_a_run_is_compared_on_its_evaluation_problems(whole, tmp_path, monkeypatch, capsys):
    """Greedy answers of its checkpoint are those of its own last evaluation; another run of the same
    command would replace files, and is refused."""
    argv = ["--model", str(whole), "--output", "found"]
    result = command(*argv, cwd=tmp_path, script="model/eval/baselines.py")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "found" / "baselines.json").read_text())
    assert (tmp_path / "found" / "baselines.png").read_bytes()[:4] == b"\x89PNG"
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    assert accuracies(rows, str(whole)) == {str(t): last[f"eval/accuracy_{t}"] for t in TASKS}
    assert set(accuracies(rows, "exact solver").values()) == {1.0}
    names = {"policy", "task", "band", "accuracy", "low", "high", "n"}
    assert all(set(row) == names for row in rows)
    seen = trained_on(str(whole))
    args = json.loads((whole / "config.json").read_text())["args"]
    for task in TASKS:
        space = all_problems(task, args["min_prime"], args["max_prime"])
        counts = {
            row["band"]: row["n"]
            for row in rows
            if row["policy"] == str(whole) and row["task"] == task
        }
        assert counts[SEEN] == len(seen & set(space)) and counts[UNSEEN] == len(set(space) - seen)
    monkeypatch.chdir(tmp_path)
    assert baselines.main(argv) == 2
    assert "--output found: must be a folder without" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_trained_on_is_what_entered_the_updates(warm_tiny):
    trainer = make_trainer(warm_tiny[0], train_attempts=False, refill="uniform")
    trained = set()
    for _ in range(2):
        scored = trainer.step().learned.scored
        trained |= {item.rollout.problem for item in scored if item.rollout.role is Role.SOLVER}
    rows = trainer.problems.state_dict()["problems"]
    assert {Problem(TaskType(task), x, y, p) for task, x, y, p, _, n in rows if n} == trained
    assert len(trained) < len(rows)


@pytest.mark.parametrize(
    "argv, said",
    [
        (("--min-prime", "24", "--max-prime", "28"), "28: there must be a prime"),
        (("--max-prime", "900"), "--max-prime 900: must be an integer from 5 to 617"),
        (("--samples", "0"), "--samples 0: must be an integer of at least 1"),
        (("--samples", "2", "--temperature", "0"), "must have a temperature above 0"),
        (("--temperature", "1e-39"), "--temperature 1e-39: must be a number from 0.01 to 100 or 0"),
        (("--model", "no/such-model"), "--model no/such-model: "),
        (("--models", "tiny"), "did you mean --model?"),
        (("--model", str(ROOT / "diagrams/runs/seed0")), "seed0: must have a checkpoint"),
        (("--output", "/proc/none"), "--output /proc/none: must be a folder that can be written"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(argv, said, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read once, at import
    assert is_offline_mode()
    assert baselines.main(argv) == 2
    out, error = capsys.readouterr()
    assert out == "" and said in error and len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_run_of_smaller_primes_is_not_asked_about_larger_ones(whole, capsys):
    assert baselines.main(["--model", str(whole), "--max-prime", "17"]) == 2
    assert "--max-prime 17: must be at most 13, the largest prime that " in capsys.readouterr().err


def test_several_samples_need_no_temperature():
    assert BaselineArgs().sampling_temperature == 0
    assert BaselineArgs(samples=4).sampling_temperature == 1
    assert BaselineArgs(samples=4, temperature=0.5).sampling_temperature == 0.5
    with pytest.raises(ArgumentError):
        BaselineArgs(model=(3,))
