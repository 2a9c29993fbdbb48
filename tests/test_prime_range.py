"""`--max-prime auto`. Oracles: counts by hand, a solver of which every answer is known, the same run with
the number given, and the same run in one process."""

import json
import subprocess
from pathlib import Path

import pytest
from helpers.run_contents import assert_equal_runs, done_here, main_here, rows
from test_processes import ENVIRONMENT, TORCHRUN

from constants import ROOT
from custom_types import TASKS, Judged, Problem, Rollout, TaskType, Verdict
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval.prime_range import (
    Band,
    choose_max_prime,
    largest_range,
    measured_bands,
    share_of,
)
from model.flags import is_word
from model.plan.plan import plan
from model.policy.weights import PolicyError
from model.run.finished import FinishedRun
from model.run.resumption import resumed_args
from model.run.rows import RunDirectoryError
from prime_inversion import all_problems, primes_between

BANDS = ["5-13", "17-19", "23-31", "37-61", "67-127", "131-251", "257-617"]


# ---------------------------------------------------------------- the flag


def test_a_word_may_stand_for_the_number():
    args = parse_args(["--max-prime", "auto"])
    assert args.max_prime == "auto" and args.undecided == ["max_prime"]
    assert AZRArgs(**json.loads(json.dumps(args.as_dict()))) == args
    assert AZRArgs().undecided == [] and AZRArgs(max_prime=617).undecided == []
    assert parse_args(["--max-prime", "auto", "--min-prime", "617"]).min_prime == 617


@pytest.mark.parametrize("flag, value", [("--max-prime", "Auto"), ("--min-prime", "auto")])
def test_no_other_word_and_of_no_other_flag(flag, value):
    with pytest.raises(ArgumentError, match=f"{flag} {value}: must be an integer from 5 to 617"):
        parse_args([flag, value])
    item = AZRArgs.__dataclass_fields__["max_prime"]
    assert is_word(item, "auto") and not is_word(item, 31) and not is_word(item, "")


def test_a_plan_says_which_range_it_assumed():
    auto, widest = (
        plan(parse_args(["--plan", "--model", "smollm2", "--max-prime", prime]))
        for prime in ("auto", "617")
    )
    without = [
        line for line in auto[0].splitlines() if "auto" not in line and "counted" not in line
    ]
    assert without == widest[0].splitlines() and auto[1] == widest[1]
    assert "--max-prime auto: planned for primes 5 to 617" in auto[0]


def test_reasoner_is_planned_for_the_primes_it_has_words_for():
    """Oracle: its largest word is 61, by its own tokenizer."""
    text, fits = plan(parse_args(["--plan", "--model", "reasoner", "--max-prime", "auto"]))
    assert "planned for primes 5 to 61" in text and fits
    with pytest.raises(
        PolicyError, match="--max-prime 67: must be at most 61 for --model reasoner"
    ):
        plan(parse_args(["--plan", "--model", "reasoner", "--max-prime", "67"]))


def test_a_resumed_run_keeps_its_number():
    saved = AZRArgs(max_prime=61).as_saved()
    for argv in (["--resume"], ["--resume", "--max-prime", "auto"], ["--resume", "--max-prime=61"]):
        assert resumed_args(argv, saved, "run", 0).max_prime == 61
    with pytest.raises(ArgumentError, match="--max-prime 31: must be 61, as in the run"):
        resumed_args(["--resume", "--max-prime", "31"], saved, "run", 0)
    measuring = AZRArgs(max_prime="auto").as_saved()
    assert resumed_args(["--resume"], measuring, "run", 0).undecided == ["max_prime"]


# ---------------------------------------------------------------- the choice


def test_bands_hold_each_prime_once_and_enough_problems():
    found = measured_bands(5, 617)
    assert [f"{primes[0]}-{primes[-1]}" for primes in found] == BANDS
    for least in (5, 7, 11, 29, 31, 613, 617):
        found = measured_bands(least, 617)
        assert [p for primes in found for p in primes] == list(primes_between(least, 617))
        for primes in found:
            sizes = [len(all_problems(task, primes[0], primes[-1])) for task in TASKS]
            assert min(sizes) >= 16
    assert measured_bands(7, 7) == [(7,)]  # there is nothing to join it to
    assert measured_bands(5, 11) == [(5, 7, 11)]


def band(primes: tuple[int, ...], rate: float) -> Band:
    """One problem of each task, solved at this rate."""
    asked = [all_problems(task, primes[0], primes[-1])[-1] for task in TASKS]
    return Band(primes, dict.fromkeys(asked, rate), {})


def test_a_band_counts_by_its_problems():
    """4 + 6 = 10 problems of 5 and 7, or 8 of induction, and 10 or 9 of 11."""
    sometimes, never = band((5, 7), 0.5), band((11,), 0.0)
    assert share_of([sometimes]) == 1 and share_of([never]) == 0
    assert share_of([sometimes, never]) == pytest.approx((10 / 20 + 10 / 20 + 8 / 17) / 3)
    assert share_of([band((5, 7), 1.0), band((11,), 1 / 8)]) == pytest.approx((1 + 9 / 17) / 3)


def test_tasks_count_equally_and_a_problem_that_is_always_solved_does_not_count():
    rates = {
        Problem(TaskType.ABDUCTION, 2, 3, 5): 0.5, Problem(TaskType.ABDUCTION, 3, 2, 5): 1.0,
        Problem(TaskType.DEDUCTION, 2, 3, 5): 0.0, Problem(TaskType.INDUCTION, 2, 3, 5): 7 / 8,
    }  # fmt: skip
    assert share_of([Band((5,), rates, {})]) == pytest.approx((1 / 2 + 0 + 1) / 3)


def test_the_largest_range_is_taken_though_a_smaller_one_has_less():
    """Of 5 to 13 all is solved, of 17 and 19 half the attempts, above nothing: 0, 34 of 66, 34 of 146."""
    measured = [band((5, 7, 11, 13), 1.0), band((17, 19), 0.5), band((23, 29, 31), 0.0)]
    assert largest_range(measured, 0.5) == 19 and largest_range(measured, 0.2) == 31
    assert largest_range(measured, 0.6) is None


class Known:
    """Asked in the place of an evaluator: right each time up to one prime, every other time up to another,
    and never above."""

    def __init__(self, always: int, sometimes: int, asked: list):
        self.always, self.sometimes, self.asked = always, sometimes, asked

    def solve(self, problems, *, temperature):
        self.asked.append((list(problems), temperature))
        return [
            Rollout("solver", one.task, one, (1, 2), (3,), (0.0,), "odd" if number % 2 else "even", True)
            for number, one in enumerate(problems)
        ]  # fmt: skip

    def judge(self, answer):
        p = answer.problem.p
        right = p <= self.always or (p <= self.sometimes and answer.text == "odd")
        return Judged(answer, Verdict.CORRECT if right else Verdict.WRONG)


def chosen_by(always: int, sometimes: int, **settings):
    asked, ranges, said = [], [], []

    def evaluator_of(max_prime):
        ranges.append(max_prime)
        return Known(always, sometimes, asked)

    args = AZRArgs(max_prime="auto", temperature=0.5, **settings)
    prime, record = choose_max_prime(args, 617, evaluator_of, said.append)
    return prime, record, asked, ranges, said


def test_what_is_asked_and_what_is_recorded():
    """34 + 80 of the 146 residues up to 31 are solved sometimes; 32 of each task are asked of a band, or all,
    8 times, each at once with its prompt of 2 tokens and its answer of 1."""
    prime, record, asked, ranges, said = chosen_by(13, 31, auto_share=0.4)
    assert prime == 31 and ranges == [13, 19, 31, 61, 127, 251, 617]
    problems = [list(dict.fromkeys(one)) for one, _ in asked]
    assert all(temperature == 0.5 for _, temperature in asked)
    for (attempts, _), own, (low, high) in zip(
        asked, problems, (map(int, name.split("-")) for name in BANDS), strict=True
    ):
        sizes = [len(all_problems(task, low, high)) for task in TASKS]
        assert [sum(one.task is task for one in own) for task in TASKS] == [
            min(32, n) for n in sizes
        ]
        assert all(low <= one.p <= high for one in own)
        assert all(attempts.count(one) == 8 for one in own)
    asked_for = 7 * 3 * 32 - 4  # there are 28 of induction up to 13
    counts = {"problems": asked_for, "completions": asked_for * 8, "tokens": asked_for * 8 * 3}
    assert {key: record[key] for key in counts} == counts
    assert record["share"] == 0.4 and record["attempts"] == 8 and record["reached"]
    assert [row["sometimes"] for row in record["bands"]] == [0, 1, 1, 0, 0, 0, 0]
    assert [row["solve_rate"] for row in record["bands"]] == [1, 0.5, 0.5, 0, 0, 0, 0]
    so_far = record["bands"][2]["sometimes_so_far"]
    assert so_far == pytest.approx((114 / 146 + 114 / 146 + 109 / 137) / 3)
    assert json.loads(json.dumps(record)) == record
    assert len(said) == 2 + 7 + 1 and said[-1].startswith(
        "primes 5 to 31, for 668 problems, 5,344 "
    )


def test_where_no_range_has_the_share_the_smallest_is_taken_and_said():
    prime, record, _, _, said = chosen_by(617, 617)
    assert prime == 13 and not record["reached"]
    assert said[-2] == "no range has a share of 0.2: the smallest is taken"
    assert chosen_by(0, 617)[0] == 617
    assert chosen_by(0, 617, min_prime=500)[1]["bands"][0]["primes"] == "503-617"


def test_one_attempt_says_nothing_so_there_are_four():
    assert chosen_by(0, 13, n_attempts=1)[1]["attempts"] == 4
    assert chosen_by(0, 13, n_attempts=12)[1]["attempts"] == 12


# ---------------------------------------------------------------- runs

RUN = [
    "--model", "tiny", "--batch-size", "8", "--n-attempts", "4", "--minibatches", "2", "--total-steps", "4",
    "--warm-start-steps", "20", "--no-eval-uniform", "--eval-every", "2", "--checkpoint-every", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def auto(tmp_path_factory) -> tuple[Path, str]:
    """A run that chose its range, and what it said. Not to be written into."""
    folder = tmp_path_factory.mktemp("auto") / "run"
    done = done_here(*RUN, "--max-prime", "auto", "--auto-share", "0.2", "--run-dir", str(folder))
    return folder, done.stdout


@pytest.mark.slow
def test_the_run_is_the_one_that_is_given_the_number(auto, tmp_path):
    folder, said = auto
    run = FinishedRun(folder)
    measured = run.config["measured"]["max_prime"]
    prime = run.args["max_prime"]
    assert type(prime) is int and f"primes 5 to {prime}, for 668 problems, 2,672 " in said
    enough = [row for row in measured["bands"] if row["sometimes_so_far"] >= 0.2]
    assert enough[-1]["primes"].endswith(f"-{prime}")
    done_here(
        *RUN, "--max-prime", str(prime), "--auto-share", "0.2", "--run-dir", str(tmp_path / "given")
    )
    assert_equal_runs(folder, tmp_path / "given")
    assert "measured" not in FinishedRun(tmp_path / "given").config


@pytest.mark.slow
def test_a_warm_start_measures_about_the_guess_rate(auto):
    """Nothing else is known then: 48 problems of 4 attempts, in all bands."""
    bands = FinishedRun(auto[0]).config["measured"]["max_prime"]["bands"]
    solved, guessed = (sum(row[key] for row in bands) / 7 for key in ("solve_rate", "guess_rate"))
    assert solved == pytest.approx(guessed, abs=0.04)


@pytest.mark.slow
def test_it_is_measured_once(auto, tmp_path, capsys):
    """Resumed with and without the word, before and after its first checkpoint."""
    once = FinishedRun(auto[0]).config
    prime = once["args"]["max_prime"]
    folder = tmp_path / "run"
    auto_flags = ["--max-prime", "auto", "--auto-share", "0.2", "--run-dir", str(folder)]
    done_here(*RUN, *auto_flags, "--total-steps", "2")
    for more in ([], ["--max-prime", "auto"]):
        said = done_here("--resume", "--run-dir", str(folder), *more, "--total-steps", "4").stdout
        assert "--max-prime auto" not in said
    assert_equal_runs(auto[0], folder)
    found = FinishedRun(folder).config
    assert found["args"]["max_prime"] == prime
    assert found["measured"]["max_prime"]["bands"] == once["measured"]["max_prime"]["bands"]
    other = main_here("--resume", "--run-dir", str(folder), "--max-prime", "7")
    assert other.returncode == 2 and f"--max-prime 7: must be {prime}, as in" in other.stderr
    # A run that died after it had chosen, and before its first checkpoint.
    died = tmp_path / "died"
    died.mkdir()
    (died / "config.json").write_text(json.dumps({key: once[key] for key in ("args", "measured")}))
    said = done_here("--resume", "--run-dir", str(died)).stdout
    assert "--max-prime auto" not in said
    assert FinishedRun(died).config["measured"] == once["measured"]
    assert rows(died / "metrics.jsonl") == rows(auto[0] / "metrics.jsonl")


@pytest.mark.slow
def test_a_run_that_died_while_it_measured_measures_again(auto, tmp_path):
    """Until then its config.json has the word, and readers say so."""
    args = FinishedRun(auto[0]).config["args"] | {"max_prime": "auto"}
    (tmp_path / "config.json").write_text(json.dumps({"args": args}))
    with pytest.raises(RunDirectoryError, match="has max_prime auto, which the run had not yet"):
        FinishedRun(tmp_path).args["seed"]
    done_here("--resume", "--run-dir", str(tmp_path))
    assert_equal_runs(auto[0], tmp_path)


@pytest.mark.slow
def test_a_saved_policy_is_tried_with_the_primes_that_it_has_words_for(auto, tmp_path):
    """`tiny` of the chosen range, as a folder: no larger band is asked."""
    prime = FinishedRun(auto[0]).args["max_prime"]
    model = str(FinishedRun(auto[0]).newest_checkpoint)
    flags = ["--max-prime", "auto", "--auto-share", "0.01", "--total-steps", "0"]
    done_here("--model", model, *flags, "--run-dir", str(tmp_path / "run"))
    found = FinishedRun(tmp_path / "run")
    assert found.args["max_prime"] == prime
    assert found.config["measured"]["max_prime"]["bands"][-1]["primes"].endswith(f"-{prime}")


@pytest.mark.slow
def test_two_processes_choose_as_one(auto, tmp_path):
    """The same answers, since each row has its own random numbers, split between them."""
    flags = [*RUN, "--max-prime", "auto", "--auto-share", "0.2", "--run-dir", str(tmp_path / "run")]
    command = [*TORCHRUN, "2", str(ROOT / "model" / "train.py"), *flags]
    result = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    ours, theirs = FinishedRun(tmp_path / "run").config, FinishedRun(auto[0]).config
    assert ours["args"]["max_prime"] == theirs["args"]["max_prime"]
    assert ours["measured"]["max_prime"]["bands"] == theirs["measured"]["max_prime"]["bands"]
    assert result.stdout.count("--max-prime auto") == 1
