"""What the report shows. Oracle: numbers by hand."""

from itertools import pairwise

import pytest

from custom_types import TASKS
from model.args import AZRArgs
from model.report.curriculum import Grid, learnability, phases, proposals, solve_rates, solved
from model.report.curves import curves, rounded
from model.report.data import MOST_TRANSCRIPTS, common_args, groups, transcripts
from model.report.panels import chance_level, reward_panels, uniform_prime
from model.run.finished import FinishedRun, read_runs
from prime_inversion import primes_between


def made_up(name="one", args=(), metrics=(), problems=(), evaluations=(), rollouts=()):
    """A run of which there is no folder: what would be read of it is put there by hand."""
    run = FinishedRun("nowhere", name)
    run.args = AZRArgs(n_attempts=4).as_dict() | dict(args)
    run.metrics, run.problems = metrics, problems
    run.evaluations, run.rollouts = evaluations, rollouts
    return run


def test_runs_that_differ_in_the_seed_alone_are_one_group():
    runs = [made_up(args=dict(seed=s, lr=lr, run_dir=f"{s}{lr}")) for lr in (1, 2) for s in (0, 1)]
    assert groups(runs) == {"lr 1": runs[:2], "lr 2": runs[2:]}
    assert groups(runs[:2]) == {"tiny": runs[:2]}


def test_curves_are_means_with_the_range_of_the_runs():
    one = [{"step": 0, "a": 1.0}, {"step": 1, "a": None}, {"step": 2, "a": 3.0}]
    other = [{"step": 0, "a": 2.0}, {"step": 1, "a": 4.0}]
    assert curves("g", [one], ["a", "b"]) == [
        {"group": "g", "step": 0, "a": 1.0}, {"group": "g", "step": 1, "a": None},
        {"group": "g", "step": 2, "a": 3.0},
    ]  # fmt: skip
    assert curves("g", [one, other], ["a"])[0] == {
        "group": "g", "step": 0, "a": 1.5, "a low": 1.0, "a high": 2.0
    }  # fmt: skip


def test_numbers_have_five_digits():
    values = (0.0, 123456.0, 0.000123456, -1.999999)
    assert [rounded(value) for value in values] == [0.0, 123460.0, 0.00012346, -2.0]


def test_phases_hold_every_step_once():
    assert phases(200) == [(1, 20), (21, 50), (51, 100), (101, 200)]
    assert phases(0) == [] and phases(1) == [(1, 1)]
    for steps in range(1, 40):
        joined = [step for first, last in phases(steps) for step in range(first, last + 1)]
        assert joined == list(range(1, steps + 1))


def test_proposals_and_their_solve_rates_by_hand():
    """Abduction gives y, so 2 * 3 modulo 5 stands at 3, and 3 * 5 modulo 7 at 5."""
    problems = [
        {"step": 1, "abduction": [[2, 3, 5, 3, 0.25], [3, 5, 7, 1, 1.0], [4, 4, 5, 0, 0.5]]},
        {"step": 2, "abduction": [[2, 3, 5, 1, 0.75]]},
    ]
    run = made_up(problems=problems)
    rows = proposals([run], "abduction", Grid((5, 7)))
    assert [
        (r["phase"], r["x"], r["p"], r["times"], r["share"], r["solve rate"]) for r in rows
    ] == [
        ("steps 1 to 1", 3, "5", 3, 0.75, 0.25),
        ("steps 1 to 1", 5, "7", 1, 0.25, 1.0),
        ("steps 2 to 2", 3, "5", 1, 1.0, 0.75),
    ]
    first = [row for row in solve_rates([run], "abduction") if row["phase"] == "steps 1 to 1"]
    assert [row["share"] for row in first] == [0, 0.75, 0, 0, 0.25]
    assert [row["learnability"] for row in first] == [0, 0.75, 0.5, 0.25, 0]
    for row in problems:
        row |= {"deduction": [], "induction": []}
    earned = [row.get("learnability/abduction") for row in learnability(run)]
    assert earned == [pytest.approx((3 * 0.75 + 0) / 4), 0.25]


def test_a_map_shows_what_is_given_and_not_the_answer():
    """Proposals with x = 2, y = 4: abduction gives y and asks x, the others give x."""
    run = made_up(problems=[{"step": 1} | {str(task): [[2, 4, 7, 1, 0.5]] for task in TASKS}])
    for task, given in zip(TASKS, (4, 2, 2), strict=True):
        (cell,) = proposals([run], str(task), Grid((5, 7)))
        assert (cell["x"], cell["p"]) == (given, "7")


def test_the_levels_by_hand():
    """Of primes 5 and 7: 4 problems of p = 5 and 6 of p = 7, less x = y = 1 of each in induction. A guess
    is right for 1/4 of the residues modulo 5 and 1/6 of those modulo 7, so in 2 of 10 problems. One prime
    in two is right, and both for x = y = 6, as 36 is 1 modulo 5 and 7. A level that not all runs share is
    not drawn."""
    guessing = (0.2 + 0.2 + (7 * 0.5 + 1) / 8) / 3
    assert chance_level(5, 7) == pytest.approx(guessing)
    assert uniform_prime(5, 7) == pytest.approx((4 * 5 + 6 * 7) / 10)
    runs = [made_up(args=dict(n_attempts=n, min_prime=5, max_prime=7)) for n in (4, 8)]
    alone, both = (reward_panels(common_args(own)) for own in (runs[:1], runs))
    assert alone["proposer_induction"].levels["most that a proposal can earn"] == 0.75
    assert list(both["proposer_induction"].levels) == ["always or never solved"]
    assert both["accuracy"].levels["guessing"] == pytest.approx(guessing)


def test_what_is_solved_and_since_when():
    answers = {0: (0, 1), 10: (1, 0), 20: (1, 1)}
    evaluations = [
        {"step": step, "deduction": [[2, 3, 5, a], [3, 5, 7, b]]}
        for step, (a, b) in answers.items()
    ]
    rows = solved([made_up(evaluations=evaluations)], "deduction", Grid((5, 7)))
    assert [(row["x"], row["solved"], row["since step"]) for row in rows] == [
        (2, 1, 10),
        (3, 1, 20),
    ]
    early = made_up(evaluations=evaluations[:1])
    rows = solved([made_up(evaluations=evaluations), early], "deduction", Grid((5, 7)))
    assert [row["solved"] for row in rows] == [0.5, 1]


def test_transcripts_are_spread_over_the_run():
    rows = [{"step": step, "response": str(n)} for step in range(1, 1001) for n in range(6)]
    kept = transcripts([made_up(rollouts=rows)])
    steps = sorted({row["step"] for row in kept})
    assert len(kept) <= MOST_TRANSCRIPTS + 6 and len(kept) == 6 * len(steps)
    assert steps[0] == 1 and steps[-1] == 1000 and max(b - a for a, b in pairwise(steps)) == 10


def test_a_map_of_many_problems_has_blocks_of_them():
    """Every (x, p) is in one cell, whose x and p hold it; small ranges have a cell a problem."""
    small, large = Grid(primes_between(5, 61)), Grid(primes_between(5, 617))
    assert small.labels[:2] == ["5", "7"] and small.cell(3, 7) == (3, "7")
    assert len(large.labels) <= 32 and large.labels[-1].endswith("617")
    for p in primes_between(5, 617):
        for x in range(1, p):
            place = large.place(large.cell(x, p))
            first, _, last = place["p"].partition("-")
            assert place["from"] < x < place["to"] and int(first) <= p <= int(last or first)
    assert len({large.cell(x, 617)[0] for x in range(1, 617)}) <= 64


def test_runs_are_told_apart(tmp_path):
    """By folder, or by path where folders of one name are compared."""
    for name in ("self/seed0", "self/seed1", "uniform/seed0"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"args": {"seed": 0}}')
        for log in ("metrics", "problems"):
            (folder / f"{log}.jsonl").write_text("")
    own = [tmp_path / "self" / "seed0", tmp_path / "self" / "seed1"]
    assert [run.name for run in read_runs(own)] == ["seed0", "seed1"]
    others = [own[0], tmp_path / "uniform" / "seed0"]
    assert [run.name for run in read_runs(others)] == list(map(str, others))
    assert read_runs(own)[0].args["entropy_coef"] == 0.1  # a default
