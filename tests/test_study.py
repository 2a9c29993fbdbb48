"""Grids of runs, the experiment on the collapse, and what uniform drawing would earn.

Oracles: logs and intervals by hand, a rigged verifier, the correct trainer's gradient, real runs.
"""

import copy
import shutil
from collections import Counter
from dataclasses import replace
from subprocess import CompletedProcess

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.trainers import SMALL, flat_gradient, make_trainer, relative
from test_cli import command, rows

from compute.reward import compute_r_total
from custom_types import TASKS, Example, Judged, Policy, Role, Verdict
from model.args import AZRArgs, parse_args
from model.engine.shared import SharedEngine
from model.eval.collapse import TRAINERS, prompts_of
from model.eval.evaluator import Evaluator
from model.eval.study import GRIDS, OTHER, SELF, arguments, conflict, run
from model.eval.study_results import (
    StudyRun,
    arms_table,
    by_tokens,
    contrasts_table,
    controls_table,
    interval,
    load_runs,
    save_runs,
)
from model.trainer import AZRTrainer
from utils.string_formatting import PromptRenderer

# ---------------------------------------------------------------- a study


def a_run(accuracies, condition="self", seed=0) -> StudyRun:
    """Evaluations every 10 steps of half a second, 3 tasks of 4 problems with 2 attempts each."""
    rows = []
    for step in range(10 * len(accuracies) - 9):
        row = {"step": step} | ({"step_time": 0.5} if step else {})
        if step % 10 == 0:
            row["eval/accuracy"] = accuracies[step // 10]
        if step:
            row |= {f"valid_frac/{task}": 0.75 for task in TASKS}
            row |= {
                "answer_frac/taught": 0.5,
                "answer_frac/refill": 0.25,
                "answer_frac/untrained": 0.25,
            }
        rows.append(row)
    return StudyRun(condition, seed, "abc", {"batch_size": 4, "n_attempts": 2}, rows)


def test_what_it_took_to_the_goal_by_hand():
    assert a_run([0.1, 0.5, 0.91, 0.89, 0.95]).reached == (20, 20 * 3 * 4 * 2)
    assert a_run([0.1, 0.5, 0.89]).reached is None


def test_the_area_by_hand():
    # Trapezoids of width 10: (0.1 + 0.5) / 2 and (0.5 + 0.9) / 2, over 20 steps: (3 + 7) / 20.
    assert a_run([0.1, 0.5, 0.9]).area == pytest.approx(0.5)
    assert a_run([0.3]).area == 0.3  # of one evaluation


def with_tokens(run: StudyRun, tokens: list[int]) -> StudyRun:
    """The same with so many tokens sampled up to each evaluation."""
    rows = [
        row | ({"num_tokens": tokens[row["step"] // 10]} if row["step"] % 10 == 0 else {})
        for row in run.metrics
    ]
    return replace(run, metrics=rows)


def test_what_is_compared_over_tokens_by_hand():
    """Accuracy 0.1, 0.5, 0.9 at 0, 100 and 400 tokens. Up to 200: 30 under the first stretch, and 0.5 to
    0.5 + 0.4 / 3 over 100 under the second; 0.6 is met a quarter into it."""
    run = with_tokens(a_run([0.1, 0.5, 0.9]), [0, 100, 400])
    assert run.area_over(200) == pytest.approx((30 + 100 * (0.5 + 0.2 / 3)) / 200)
    assert run.area_over(400) == pytest.approx((30 + 300 * 0.7) / 400)
    assert run.tokens_to(0.6, 400) == pytest.approx(175)
    assert run.tokens_to(0.6, 170) == float("inf") == run.tokens_to(0.95, 400)
    assert run.tokens_to(0.1, 400) == 0
    assert run.area_over(500) == pytest.approx(
        (30 + 300 * 0.7 + 100 * 0.9) / 500
    )  # it ended at 400
    endpoint = by_tokens(400, goal=0.6)
    runs = {"a": [run], "b": [with_tokens(a_run([0.1, 0.1, 0.1], "b"), [0, 10, 500])]}
    table = arms_table(runs, endpoint)
    assert "reached 0.6" in table and cells(table, "a")[4:7] == ["400", "1 of 1", "175"]
    assert cells(table, "b")[2:7] == ["0.100", "0.100", "500", "0 of 1", "not reached"]
    assert "accuracy at 400" in table and cells(table, "a")[3] == "0.900"


def cells(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_intervals_by_hand():
    # Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), Student's t with 2 degrees of freedom 4.303.
    assert interval([1.0, 2.0, 3.0]) == "2 ± 2.5"
    assert interval([0.5]) == "0.5" and interval([]) == "-"


def test_the_table_says_how_many_runs_got_there():
    runs = [a_run([0.1, 0.95]), a_run([0.1, 0.5])]
    # Areas 0.525 and 0.3: mean 0.4125, standard error 0.1125, Student's t with 1 degree 12.706.
    assert cells(controls_table({"self": runs}), "self") == [
        "self", "2", "0.412 ± 1.4", "0.412 ± 1.4", "1 of 2", "10", "240", "0.75",
    ]  # fmt: skip


def test_a_run_that_did_not_get_there_is_later_than_all_that_did():
    """Of 240 answers, 480 and never, the median is 480; of 240, never and never it is never."""
    sooner, later, never = ([0.1, 0.95, 1.0], [0.1, 0.5, 0.95], [0.1, 0.5, 0.5])
    table = arms_table({"a": [a_run(own) for own in (never, sooner, later)]})
    row = cells(table, "a")
    assert row[4:6] == ["2 of 3", "480"] and row[6:] == ["0.50", "0.25", "0.25"]
    assert "not reached" in arms_table({"a": [a_run(own) for own in (never, sooner, never)]})


def test_contrasts_are_paired_by_seed():
    """Areas differ by 0.1 on each seed, however the runs are ordered and far apart they are."""
    ours = [a_run([0.2 + seed / 10, 0.2 + seed / 10], "a", seed) for seed in range(4)]
    theirs = [a_run([0.1 + seed / 10, 0.1 + seed / 10], "b", seed) for seed in reversed(range(4))]
    row = cells(contrasts_table({"a": ours, "b": theirs}, [("a", "b")]), "a - b")
    # The mean of signed differences is as far from 0 for two of 2^4 signs: p = 0.125.
    assert row[1:] == ["4", "+0.100", "+0.100 to +0.100", "0.125", "0", "0"]


def test_logs_survive_their_file(tmp_path):
    runs = [a_run([0.1, 0.95], "self", 3), a_run([0.1, 0.5], "yoked", 3)]
    save_runs(runs, tmp_path / "study.jsonl.gz")
    assert load_runs(tmp_path / "study.jsonl.gz") == runs


def test_every_condition_of_every_grid_is_a_legal_command_line(tmp_path):
    seen = {}
    for grid in GRIDS.values():
        for name, flags in grid.conditions.items():
            further = [*grid.flags, "--eval-every", "7"]
            argv = arguments(grid.model, flags, (3, 8), 1, further, tmp_path)
            args = parse_args(argv, gpu_memory=79.0)  # on a machine with a GPU too
            assert (args.model, args.seed, args.eval_every) == (grid.model, 8, 7)
            assert (args.yoked_to == str(tmp_path / "self" / "seed8")) == (SELF in flags)
            assert (args.yoked_to == str(tmp_path / "self" / "seed3")) == (OTHER in flags)
            seen.setdefault((grid.model, name), set()).add(args)
    # "self" runs shorter among the arms; "31" is "self" by another name.
    assert {name for name, found in seen.items() if len(found) > 1} == {("tiny", "self")}
    assert len(set.union(*seen.values())) == sum(map(len, seen.values())) - 1


def test_each_run_is_told_its_model(tmp_path, monkeypatch):
    """A mock of the process that would train: what counts is what it is told."""
    told = []
    monkeypatch.setattr(
        "model.eval.study.subprocess.run",
        lambda command, **_: told.append(command) or CompletedProcess(command, 0, "", ""),
    )
    run(tmp_path / "self" / "seed0", arguments("tiny", (), (0,), 0, (), tmp_path))
    assert told[0][told[0].index("--model") + 1] == "tiny"


@pytest.mark.slow
def test_arms_run_with_what_they_follow_first(tmp_path):
    """Self and yoked, three steps: yoked is taught as many distinct problems a task and step as self
    proposed. Then the tables come again from the logs alone."""
    flags = "--max-prime 7 --total-steps 3 --batch-size 8 --n-attempts 2 --eval-every 1 --warm-start-steps 30"
    study = dict(cwd=tmp_path, script="model/eval/study.py")
    given = [
        "--grid",
        "arms",
        "--seeds",
        "2",
        "--first-seed",
        "5",
        "--only",
        "self",
        "--only",
        "yoked",
    ]
    first = command(*given, "--flags", flags, "--output", "arms", **study)
    assert first.returncode == 0, first.stderr
    assert cells(first.stdout, "yoked - self")[1] == "2"
    for seed in (5, 6):
        pair = [
            rows(tmp_path / f"arms/{arm}/seed{seed}/problems.jsonl") for arm in ("self", "yoked")
        ]
        counts = [
            [
                sum(times > 0 or arm for *_, times, _ in row[str(task)])
                for row in own
                for task in TASKS
            ]
            for arm, own in enumerate(pair)
        ]
        assert counts[0] == counts[1] and any(counts[0])
    again = command("--grid", "arms", "--from", "arms/study.jsonl.gz", "--output", "again", **study)
    assert again.stdout == first.stdout.partition("| arm")[1] + first.stdout.partition("| arm")[2]
    alone = command(*given[:-3], "yoked", "--output", "alone", **study)
    assert alone.returncode == 2 and "must name self too" in alone.stderr
    other = conflict(tmp_path / "arms/self/seed5", ["--model", "tiny", "--seed", "5"])
    assert "holds a run with --total-steps 3, not 200" in other


@pytest.mark.slow
def test_a_study_is_resumed_and_refuses_other_settings(tmp_path):
    given = [
        "--grid",
        "arms",
        "--output",
        "study",
        "--seeds",
        "1",
        "--only",
        "self",
        "--only",
        "uniform",
    ]
    flags = "--max-prime 7 --total-steps 2 --batch-size 8 --eval-every 1 --warm-start-steps 5"
    study = dict(cwd=tmp_path, script="model/eval/study.py")
    first = command(*given, "--flags", flags, **study)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "study" / "study.png").is_file() and "| uniform | 1 |" in first.stdout
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")}
    shutil.rmtree(tmp_path / "study/uniform/seed0/checkpoints")  # as if it had been killed
    again = command(*given, "--flags", flags, **study)
    assert again.returncode == 0, again.stderr
    changed = [path.parts[-3] for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert changed == ["uniform"]
    refused = command(*given, "--flags", flags + " --lr 0.1", **study)
    assert (
        refused.returncode == 2
        and f"holds a run with --lr {AZRArgs().lr}, not 0.1" in refused.stderr
    )


# ---------------------------------------------------------------- the collapse


def defective(policy: Policy, name: str, **changes) -> AZRTrainer:
    """A trainer of a copy of the policy, with the defects of this name."""
    args = AZRArgs(**{**SMALL, **changes})
    policy = replace(policy, model=copy.deepcopy(policy.model))
    renderer = PromptRenderer.for_policy(policy, args)
    return TRAINERS[name].trainer_of(policy, renderer, args, Accelerator(cpu=True))


def gradient(trainer: AZRTrainer) -> torch.Tensor:
    """Of one update on one round, weights left alone."""
    trainer.learner.optimizer.step = trainer.learner.optimizer.zero_grad = lambda: None
    trainer.learner.args = replace(trainer.args, max_grad_norm=1e9)
    trainer.learning_phase(trainer.rollout_phase())
    return flat_gradient(trainer)


def test_each_defect_changes_the_gradient_as_it_says(warm_tiny):
    settings = dict(minibatches=1, entropy_coef=0.0, batch_size=16)
    policy = warm_tiny[0]
    correct = gradient(make_trainer(policy, **settings))
    assert torch.equal(gradient(defective(policy, "correct", **settings)), correct)
    assert relative(gradient(defective(policy, "descent", **settings)), -correct) < 1e-4
    for name in ("clipped advantages", "other completions", "unrelated rewards"):
        assert relative(gradient(defective(policy, name, **settings)), correct) > 0.05
    # With the clip where no advantage lies, clipped advantages are the correct method again.
    settings |= dict(clip_low=1.0, clip_high=99.0)
    wide = gradient(defective(policy, "clipped advantages", **settings))
    assert relative(wide, gradient(make_trainer(policy, **settings))) < 1e-4


@torch.no_grad()
def test_other_completions_are_of_the_same_prompts(warm_tiny):
    """Without gradient the stored responses are scored; with it, what is scored follows the same prompts,
    read back from the packed rows in their order."""
    trainer = defective(warm_tiny[0], "other completions")
    played = trainer.rollout_phase()
    examples = [Example(item.rollout, 0.0, float(n)) for n, item in enumerate(played.scored)]
    for batch in trainer.learner.engine.batches(examples, 512):
        asked = [played.scored[int(n)].rollout.prompt_ids for n in batch.weights]
        assert prompts_of(batch) == asked
        stored = SharedEngine.score(trainer.learner.engine, batch, 1.0)
        assert torch.equal(trainer.learner.engine.score(batch, 1.0).logprobs, stored.logprobs)
        with torch.enable_grad():
            others = trainer.learner.engine.score(batch, 1.0)
        assert others.logprobs.shape == stored.logprobs.shape and others.logprobs.requires_grad
        assert not torch.equal(others.logprobs, stored.logprobs)


def test_unrelated_rewards_keep_the_form_and_lose_the_problem(warm_tiny):
    trainer = defective(warm_tiny[0], "unrelated rewards", batch_size=32, n_attempts=4)
    twin = make_trainer(warm_tiny[0], batch_size=32, n_attempts=4)
    unrelated, related = trainer.rollout_phase(), twin.rollout_phase()
    differ = 0
    for item, true in zip(unrelated.answers, related.answers, strict=True):
        assert item.rollout.text == true.rollout.text
        assert item.reward == compute_r_total(Role.SOLVER, item.verdict)
        assert (item.verdict is Verdict.MALFORMED) == (true.verdict is Verdict.MALFORMED)
        differ += item.verdict is not true.verdict
    assert differ > 10
    paid = {item.reward for item in unrelated.proposals if item.proposed}
    assert max(paid) > 1 and all(0 <= reward <= 2 for reward in paid)


# ---------------------------------------------------------------- uniform drawing


@pytest.mark.parametrize("right, reward", [(0, 0.0), (2, 1 - 2 / 3), (3, 0.0)])
def test_what_uniform_drawing_would_earn(warm_tiny, monkeypatch, right, reward):
    """The verifier is rigged: the first `right` of 3 attempts at each problem are correct."""
    policy, renderer, _ = warm_tiny
    evaluator = Evaluator(policy, renderer, AZRArgs(**SMALL))
    attempts = Counter()

    def rigged(answer):
        attempts[answer.problem] += 1
        good = attempts[answer.problem] <= right
        return Judged(answer, Verdict.CORRECT if good else Verdict.WRONG)

    monkeypatch.setattr(evaluator, "judge", rigged)
    metrics = evaluator.uniform_reward()
    assert set(attempts.values()) == {3}
    assert metrics == {f"eval/uniform_reward_{task}": pytest.approx(reward) for task in TASKS}
    assert all(1 < sum(p.task is task for p in attempts) <= 8 for task in TASKS)
    assert not np.isnan(list(metrics.values())).any()
