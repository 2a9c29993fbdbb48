"""Problems that no answer is ever trained on. Oracles: primes counted by hand, shares of exact
enumeration, what entered the updates and the buffer of real steps."""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from helpers.run_contents import SMALL, assert_equal_runs, done_here
from helpers.trainers import make_trainer

from custom_types import TASKS, Problem, Role, TaskType, Verdict
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval.evaluator import evaluation_problems
from model.eval.scores import ALL, HELD_OUT, SEEN, UNSEEN, score_rows
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
from model.proposers.table import PROPOSERS
from model.run.finished import FinishedRun
from model.run.rows import RunDirectoryError
from model.run.yoking import proposed_problems
from prime_inversion import (
    all_problems,
    evaluated_problems,
    generate_problems,
    is_held_out,
    primes_between,
    trained_problems,
)
from utils.string_formatting import PromptRenderer

SHARE = 0.4
ABDUCTION, DEDUCTION, INDUCTION = TASKS


def held_out(low: int, high: int, share: float) -> set[Problem]:
    return {p for task in TASKS for p in all_problems(task, low, high) if is_held_out(p, share)}


# ---------------------------------------------------------------- which they are


def test_a_small_range_by_hand():
    """The primes are 2, 3, 5, 7, 11, 13: with 0.4 every fifth is held out, so 11 with all of its 10, 10
    and 9 problems. Of the 14 orbits of 5, 7 and 13 about a quarter are, always the same: a result of one
    version is compared with that of another."""
    found = held_out(5, 13, SHARE)
    assert Counter(p.task for p in found if p.p == 11) == {
        ABDUCTION: 10,
        DEDUCTION: 10,
        INDUCTION: 9,
    }
    orbits = {(*sorted((p.x, p.y)), p.p) for p in found if p.p != 11}
    assert orbits == {(1, 1, 7), (2, 4, 7), (1, 1, 13), (12, 12, 13)}


@pytest.mark.parametrize(
    ("share", "primes"),
    [(0.2, {29, 71}), (0.4, {11, 29, 47, 71}), (0.5, {7, 19, 37, 53, 71})],
)
def test_whole_primes_are_every_tenth_fifth_or_fourth_from_2(share, primes):
    """By hand: 2 3 5 7, 11 13 17 19, 23 29 31 37, 41 43 47 53, 59 61 67 71, 73."""
    whole = {
        q
        for q in primes_between(5, 73)
        if all(is_held_out(problem, share) for problem in all_problems(DEDUCTION, q, q))
    }
    assert whole == primes


@pytest.mark.parametrize("share", [0.1, SHARE, 0.9])
def test_an_orbit_is_held_out_as_a_whole(share):
    """Swapped, and in every task."""
    found = held_out(5, 61, share)
    for problem, task in product(found, TASKS):
        x, y, p = problem.x, problem.y, problem.p
        for a, b in ((x, y), (y, x)):
            if not (task is INDUCTION and a == b == 1):
                assert Problem(task, a, b, p) in found


@pytest.mark.parametrize("share", [0.1, SHARE, 0.9])
def test_the_share_is_that_of_all_problems(share):
    """Up to 617, half by primes and half by orbits. Orbits are drawn: some 16,000 of them, of which a
    share has a standard deviation below 0.004. Primes differ in size, which moves the half of them."""
    space = all_problems(DEDUCTION, 5, 617)
    of_primes = Counter(p.p for p in space if is_held_out(p, share))
    whole = {q for q, count in of_primes.items() if count == q - 1}
    others = [p for p in space if p.p not in whole]
    drawn = sum(is_held_out(p, share) for p in others) / len(others)
    assert len(whole) / 113 == pytest.approx(share / 2, abs=3 / 113)
    assert drawn == pytest.approx(share / 2 / (1 - share / 2), abs=4 * 0.004)
    assert sum(of_primes.values()) / len(space) == pytest.approx(share, abs=0.03)


def test_a_larger_share_and_another_range_agree():
    assert held_out(5, 31, SHARE) == {p for p in held_out(5, 617, SHARE) if p.p <= 31}
    small, large = held_out(5, 61, 0.2), held_out(5, 61, 0.6)
    whole = {
        p.p for p in small if all(is_held_out(q, 0.2) for q in all_problems(DEDUCTION, p.p, p.p))
    }
    assert {p for p in small if p.p not in whole} < large


def test_trained_and_evaluated_are_the_two_sides():
    for task in TASKS:
        space = all_problems(task, 5, 31)
        trained, evaluated = (
            side(task, 5, 31, SHARE) for side in (trained_problems, evaluated_problems)
        )
        assert sorted(map(repr, trained + evaluated)) == sorted(map(repr, space))
        assert set(evaluated) == {p for p in held_out(5, 31, SHARE) if p.task is task}
        assert trained_problems(task, 5, 31, 0.0) == evaluated_problems(task, 5, 31, 0.0) == space
    drawn = set(generate_problems(6000, Random(0), 5, 13, held_out=SHARE))
    assert drawn == {p for task in TASKS for p in trained_problems(task, 5, 13, SHARE)}


def test_accuracy_is_measured_on_them_alone():
    assert set(evaluation_problems(AZRArgs(held_out=SHARE))) == held_out(5, 31, SHARE)
    few = evaluation_problems(AZRArgs(held_out=SHARE, max_prime=617, eval_problems=20))
    assert len(few) == 60 and set(few) < held_out(5, 617, SHARE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(max_prime=7, held_out=0.001), "of abduction it holds out 0 of 10"),
        (dict(min_prime=29, max_prime=29, held_out=0.2), "of abduction it holds out 28 of 28"),
        (dict(held_out=0.95), "--held-out 0.95: must be a number from 0 to 0.9"),
        (dict(held_out=-0.1), "--held-out -0.1: must be a number from 0 to 0.9"),
        (dict(held_out=1e-320), "of abduction it holds out 0 of 146"),
    ],
)
def test_a_range_without_both_kinds_is_refused(changes, said):
    with pytest.raises(ArgumentError, match=said):
        AZRArgs(**changes)


def test_a_range_that_is_not_decided_yet_is_not_refused():
    """With 0.001 any small range would be; it is looked at again when the range is known."""
    args = parse_args(["--model", "tiny", "--max-prime", "auto", "--held-out", "0.001"])
    with pytest.raises(
        ArgumentError, match="--held-out 0.001 --min-prime 5 --max-prime 7: must hold"
    ):
        replace(args, max_prime=7)


# ---------------------------------------------------------------- what a run does with them

FOLLOWED = {
    step: [problem for task in TASKS for problem in trained_problems(task, 5, 13, SHARE)[:4]]
    for step in (1, 2, 3)
}


@pytest.mark.parametrize("train_attempts", [True, False])
@pytest.mark.parametrize("refill", ["uniform", "unsolved"])
@pytest.mark.parametrize("proposer", [name for name in PROPOSERS if name != "none"])
def test_no_answer_to_them_is_trained_on(warm_tiny, proposer, refill, train_attempts):
    """Three steps with triples shared: who is trained on, who is known, who is a reference, who pays."""
    follows = proposer in ("yoked", "replayed")
    yoked = dict(yoked_to="a run", followed=FOLLOWED) if follows else {}
    trainer = make_trainer(
        warm_tiny[0], held_out=SHARE, proposer=proposer, refill=refill, batch_size=32,
        train_attempts=train_attempts, seed_problems=1, **yoked,
    )  # fmt: skip
    proposed, references = 0, []
    written = trainer.renderer.proposer

    def noted(task, known):
        references.extend(known)
        return written(task, known)

    trainer.renderer.proposer = noted
    for _ in range(3):
        done = trainer.step()
        played = done.played
        answers = [item for item in done.learned.scored if item.rollout.role is Role.SOLVER]
        assert len(answers) == 3 * 32 * (3 if train_attempts else 1)  # refilled all the same
        assert not any(is_held_out(item.rollout.problem, SHARE) for item in answers)
        attempts = Counter(one.problem for one in played.completions if one.role is Role.SOLVER)
        secret = [
            item for item in played.proposals if item.proposed and is_held_out(item.proposed, SHARE)
        ]
        proposed += len(secret)
        for item in secret:
            rate = played.solve_rates[item.proposed]
            assert attempts[item.proposed] == 3
            assert item.reward == (1 - rate if 0 < rate < 1 else 0)
        assert not any(is_held_out(problem, SHARE) for problem in played.novel)
        for task in TASKS:
            valid = [i.proposed for i in played.proposals if i.proposed and i.rollout.task is task]
            if valid:
                share = sum(is_held_out(problem, SHARE) for problem in valid)
                assert done.metrics[f"held_out_frac/{task}"] == share / len(valid)
    known = {problem for task in TASKS for problem in trainer.problems.problems(task)}
    assert len(known) > 10 and not any(
        is_held_out(problem, SHARE) for problem in known | set(references)
    )
    assert (proposed > 0) == PROPOSERS[proposer].writes == bool(references)


def test_attempts_at_a_held_out_proposal_pay_its_proposer(warm_tiny):
    """Of many held-out proposals some are solved by some attempts and not by all: the attempts are judged
    again here, and the proposer is paid what they say."""
    trainer = make_trainer(warm_tiny[0], held_out=SHARE, batch_size=128, n_attempts=8)
    played = trainer.step().played
    correct = Counter()
    for one in trainer._judge([r for r in played.completions if r.role is Role.SOLVER]):
        correct[one.rollout.problem] += one.verdict is Verdict.CORRECT
    paid = {
        (item.reward, correct[item.proposed])
        for item in played.proposals
        if item.proposed and is_held_out(item.proposed, SHARE)
    }
    assert all(reward == (1 - c / 8 if 0 < c < 8 else 0) for reward, c in paid)
    assert any(reward > 0 for reward, _ in paid)


def test_the_warm_start_answers_none_of_them():
    args = AZRArgs(max_prime=13, held_out=SHARE, warm_start_steps=3)
    policy = build_tiny(13, 0)
    renderer, asked = PromptRenderer.for_policy(policy, args), set()
    written = renderer.solver

    def noted(problem):
        asked.add(problem)
        return written(problem)

    renderer.solver = noted
    warm_start(policy, renderer, args)
    assert len(asked) > 30 and not any(is_held_out(problem, SHARE) for problem in asked)


@pytest.mark.slow
def test_a_yoked_run_counts_what_was_taught(half, tmp_path):
    """Of a run with the same share, what it proposed less what it held out; of another run nothing."""
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"held_out": 0.0', f'"held_out": {SHARE}'))
    args = AZRArgs(
        max_prime=13, proposer="yoked", yoked_to=str(folder), total_steps=20, held_out=SHARE
    )
    expected, left_out = {}, 0
    for row in FinishedRun(folder).problems:
        rows = [(t, *item) for t in TASKS for item in row[t] if item[3]]
        kept = [t for t, x, y, p, *_ in rows if not is_held_out(Problem(t, x, y, p), SHARE)]
        expected[row["step"]] = Counter(kept)
        left_out += len(rows) - len(kept)
    assert {
        step: Counter(p.task for p in kept) for step, kept in proposed_problems(args).items()
    } == expected and left_out > 0
    with pytest.raises(RunDirectoryError, match="must be a run with --held-out 0.4"):
        proposed_problems(replace(args, yoked_to=str(half)))


def test_rows_of_what_a_run_held_out():
    """3 5 7 was trained on, 6 6 7 was not yet, and 2 6 11 is of a whole prime that never is."""
    a, b, c = (Problem(TaskType.DEDUCTION, *n) for n in ((3, 5, 7), (6, 6, 7), (2, 6, 11)))
    assert [is_held_out(problem, SHARE) for problem in (a, b, c)] == [False, False, True]
    rows = score_rows("one", {a: 1, b: 0, c: 1}, 1, AZRArgs(max_prime=11), {a}, SHARE)
    found = {row["band"]: (row["n"], row["accuracy"]) for row in rows if row["task"] == "deduction"}
    assert found[SEEN] == (1, 1.0) and found[UNSEEN] == (2, 0.5) and found[HELD_OUT] == (1, 1.0)
    assert found[ALL] == (3, pytest.approx(2 / 3))


@pytest.mark.slow
def test_a_run_with_held_out_problems_goes_on_exactly(tmp_path):
    """And its checkpoint has trained on none of them."""
    flags = [
        *SMALL,
        "--batch-size",
        "32",
        "--held-out",
        "0.4",
        "--total-steps",
        "4",
        "--keep-checkpoints",
        "9",
    ]
    flags += ["--checkpoint-every", "2", "--eval-every", "2"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    done_here(*flags, "--run-dir", str(whole))
    shutil.copytree(whole, again)
    done_here("--resume", str(again / "checkpoints" / "step_000002"))
    shutil.rmtree(again / "superseded-1")
    assert_equal_runs(again, whole)
    trained = FinishedRun(whole).trained_on
    assert trained and not any(is_held_out(problem, SHARE) for problem in trained)
    asked = {(t, *n[:3]) for row in FinishedRun(whole).evaluations for t in TASKS for n in row[t]}
    assert asked == {(p.task, p.x, p.y, p.p) for p in held_out(5, 13, SHARE)}
