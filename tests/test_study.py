"""Grids of runs, the experiment on the collapse, and what uniform drawing would earn.

Oracles: logs and intervals by hand, a rigged verifier, the correct trainer's gradient, real runs.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_cli import command
from trainers import SMALL, flat_gradient, make_trainer, relative

from compute.reward import compute_r_total
from custom_types import TASKS, Role, Verdict
from model.args import AZRArgs, parse_args
from model.eval.collapse import ClippedAdvantages, Descent, OtherCompletions, UnrelatedRewards
from model.eval.evaluator import Evaluator
from model.eval.study import GRIDS, arguments, interval, reached, table
from model.trainer import AZRTrainer

# ---------------------------------------------------------------- a study


def write_run(folder, accuracies):
    """Evaluations every 10 steps of half a second, 3 tasks of 4 problems with 2 attempts each."""
    folder.mkdir(parents=True)
    config = {"args": {"batch_size": 4, "n_attempts": 2}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = []
    for step in range(10 * len(accuracies) - 9):
        row = {"step": step} | ({"step_time": 0.5} if step else {})
        if step % 10 == 0:
            row["eval/accuracy"] = accuracies[step // 10]
        if step:
            row |= {f"valid_frac/{task}": 0.75 for task in TASKS}
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_what_it_took_to_the_goal_by_hand(tmp_path):
    run = write_run(tmp_path / "a", [0.1, 0.5, 0.91, 0.89, 0.95])
    assert reached(run) == (20, 20 * 3 * 4 * 2, 10.0)
    assert reached(write_run(tmp_path / "b", [0.1, 0.5, 0.89])) is None


def test_intervals_by_hand():
    # Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), Student's t with 2 degrees of freedom 4.303.
    assert interval([1.0, 2.0, 3.0]) == "2 ± 2.5"
    assert interval([0.5]) == "0.5" and interval([]) == "-"


def test_the_table_says_how_many_runs_got_there(tmp_path):
    runs = [write_run(tmp_path / "a", [0.1, 0.95]), write_run(tmp_path / "b", [0.1, 0.5])]
    (line,) = [line for line in table({"self": runs}).splitlines() if line.startswith("| self")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["self", "2", "0.412 ± 1.4", "1 of 2", "10", "240", "5", "0.75"]


def test_every_condition_of_every_grid_is_a_legal_command_line():
    seen = set()
    for grid in GRIDS.values():
        for panel in grid.values():
            for name, flags in panel.items():
                args = parse_args(arguments(flags, 3, ["--total-steps", "7"]))
                assert args.seed == 3 and (args.total_steps == 7 or "--total-steps" in flags)
                seen.add((name, args))
    names = Counter(name for name, _ in seen)
    assert max(names.values()) == 1  # a condition means one thing wherever it stands
    assert len({args for _, args in seen}) >= len(seen) - 1  # "31" is "self" by another name


def test_a_study_is_resumed_and_refuses_other_settings(tmp_path):
    given = ["--output", "study", "--seeds", "1", "--only", "self", "uniform"]
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


def gradient(trainer: AZRTrainer) -> torch.Tensor:
    """Of one update on one round, weights left alone."""
    trainer.optimizer.step = trainer.optimizer.zero_grad = lambda: None
    trainer.args = replace(trainer.args, max_grad_norm=1e9)
    trainer.learning_phase(trainer.rollout_phase())
    return flat_gradient(trainer)


def test_each_defect_changes_the_gradient_as_it_says(warm_tiny):
    settings = dict(minibatches=1, entropy_coef=0.0, batch_size=16)
    correct = gradient(make_trainer(warm_tiny[0], **settings))
    assert relative(gradient(make_trainer(warm_tiny[0], Descent, **settings)), -correct) < 1e-4
    for defect in (ClippedAdvantages, OtherCompletions, UnrelatedRewards):
        assert relative(gradient(make_trainer(warm_tiny[0], defect, **settings)), correct) > 0.05
    # With the clip where no advantage lies, the first is the correct method again.
    wide = make_trainer(warm_tiny[0], ClippedAdvantages, **settings, clip_low=1.0, clip_high=99.0)
    wide_correct = make_trainer(warm_tiny[0], **settings, clip_low=1.0, clip_high=99.0)
    assert relative(gradient(wide), gradient(wide_correct)) < 1e-4


def test_unrelated_rewards_keep_the_form_and_lose_the_problem(warm_tiny):
    trainer = make_trainer(warm_tiny[0], UnrelatedRewards, batch_size=32, n_attempts=4)
    twin = make_trainer(warm_tiny[0], batch_size=32, n_attempts=4)
    unrelated, related = trainer.rollout_phase(), twin.rollout_phase()
    differ = 0
    for item, own in zip(unrelated.answers, related.answers, strict=True):
        assert item.rollout.text == own.rollout.text
        assert item.reward == compute_r_total(Role.SOLVER, item.verdict)
        assert (item.verdict is Verdict.MALFORMED) == (own.verdict is Verdict.MALFORMED)
        differ += item.verdict is not own.verdict
    assert differ > 10
    paid = {item.reward for item, problem in unrelated.proposals if problem}
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
        return (Verdict.CORRECT if good else Verdict.WRONG), None

    monkeypatch.setattr(evaluator, "judge", rigged)
    metrics = evaluator.uniform_reward()
    assert set(attempts.values()) == {3}
    assert metrics == {f"eval/uniform_reward_{task}": pytest.approx(reward) for task in TASKS}
    assert all(1 < sum(p.task is task for p in attempts) <= 8 for task in TASKS)
    assert not np.isnan(list(metrics.values())).any()
