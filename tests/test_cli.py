"""The commands as a user runs them: subprocesses, real files, from other folders.

Oracles: the contract's file formats, transformers' own loaders, two runs against each other, and a
binomial bound on the warm start.
"""

import json
import math
import os
import re
import subprocess
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.trainers import untimed
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
)

from constants import ROOT
from custom_types import CELLS, ROLES, TASKS, Role, TaskType, Verdict
from model.args import AZRArgs
from model.eval.evaluator import evaluation_problems
from model.eval.finished import load_evaluator

pytestmark = pytest.mark.slow

SHORT = [
    "--max-prime",
    "13",
    "--total-steps",
    "4",
    "--eval-every",
    "2",
    "--batch-size",
    "16",
    "--warm-start-steps",
    "30",
]


def command(*argv: str, cwd: Path, script: str = "model/train.py") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    return subprocess.run(
        [sys.executable, str(ROOT / script), *argv],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def done(*argv: str, cwd: Path) -> subprocess.CompletedProcess:
    """The result of a command that succeeds."""
    result = command(*argv, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished short run, started from another folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    result = command(*SHORT, "--run-dir", "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run"


def test_metrics_hold_every_key_of_the_contract(run):
    written = rows(run / "metrics.jsonl")
    assert [row["step"] for row in written] == [0, 1, 2, 3, 4]
    evaluation = {
        "eval/accuracy",
        *(f"eval/{key}_{task}" for key in ("accuracy", "uniform_reward") for task in TASKS),
    }
    every_step = {
        *(f"{key}/{role}_{task}" for key in ("reward", "reward_std", "malformed_frac") for role, task in CELLS),
        *(
            f"{key}/{task}"
            for key in ("valid_frac", "solve_rate", "novel_frac", "distinct_frac", "proposed_prime_mean", "buffer")
            for task in TASKS
        ),
        *(f"entropy/{role}" for role in ROLES),
        "step", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio", "approx_kl",
        "clip_ratio", "ratio_max", "sampling/logp_difference_max", "grad_norm", "learning_rate", "loss",
        "num_tokens", "step_time", "time/rollout", "time/update", "perf/tokens_per_second",
        "perf/completions_per_second",
    }  # fmt: skip
    for row in written:
        assert evaluation <= set(row) if row["step"] in (0, 2, 4) else not evaluation & set(row)
        assert row["step"] == 0 or every_step <= set(row)
        assert all(value is None or math.isfinite(value) for value in row.values())
    tokens = [row["num_tokens"] for row in written[1:]]
    assert all(a < b for a, b in pairwise(tokens))


def test_every_metric_key_is_explained_in_the_page_of_runs(run):
    page = (ROOT / "model" / "run" / "README.md").read_text(encoding="utf-8")
    for key in rows(run / "metrics.jsonl")[-1]:
        for name in (*TASKS, *ROLES):
            key = key.replace(name, "{role}" if name in ROLES else "{task}")
        assert f"`{key}`" in page, key


def test_rollouts_are_transcripts_of_every_cell(run):
    transcripts = rows(run / "rollouts.jsonl")
    fields = {"step", "role", "task", "prompt", "response", "verdict", "reward", "advantage"}
    assert all(set(row) == fields and row["verdict"] in set(Verdict) for row in transcripts)
    for step in (1, 2, 3, 4):
        assert {(row["role"], row["task"]) for row in transcripts if row["step"] == step} == set(
            CELLS
        )
    for row in transcripts:
        assert f" {'propose' if row['role'] == 'proposer' else 'solve'} " in row["prompt"]


def test_plots_and_config_are_there(run):
    panels = {f"{role}_{task}.png" for role, task in CELLS}
    expected = panels | {"accuracy.png", "curriculum.png"}
    plots = {path.name: path.read_bytes()[:8] for path in (run / "plots").iterdir()}
    assert set(plots) == expected and set(plots.values()) == {b"\x89PNG\r\n\x1a\n"}
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert date.fromisoformat(config["args"].pop("prompt_date")) <= date.today()
    assert {"prompt_date": None, **config["args"]} == {**AZRArgs().as_dict(), **{
        "max_prime": 13, "total_steps": 4, "eval_every": 2, "batch_size": 16, "warm_start_steps": 30, "run_dir": "run",
    }}  # fmt: skip
    assert set(config["versions"]) == {"python", "torch", "transformers", "accelerate"}


def test_the_checkpoint_loads_with_transformers_and_answers_as_the_run_did(run):
    """transformers' own loaders and greedy `generate`, against the run's last evaluation."""
    folder = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    assert folder.name == "step_000004"
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    evaluator = load_evaluator(run)
    problems = evaluation_problems(evaluator.args)
    correct = {task: [] for task in TASKS}
    for problem in problems:
        prompt = tokenizer(
            evaluator.renderer.solver(problem).text, return_tensors="pt", add_special_tokens=False
        )
        output = model.generate(
            prompt["input_ids"],
            attention_mask=prompt["attention_mask"],
            do_sample=False,
            max_new_tokens=evaluator.args.max_answer_tokens,
        )
        text = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]).removesuffix(
            tokenizer.eos_token
        )
        (ours,) = evaluator.solve([problem])
        assert text == ours.text
        correct[problem.task].append(evaluator.judge(ours).verdict is Verdict.CORRECT)
    last = rows(run / "metrics.jsonl")[-1]
    for task in TASKS:
        assert last[f"eval/accuracy_{task}"] == sum(correct[task]) / len(correct[task])


def test_the_same_command_twice_gives_the_same_numbers_and_prefix(run):
    """To the last digit, times aside; a longer run begins with the rows of the shorter one."""
    again = run.with_name("again")
    done(*SHORT, "--total-steps", "5", "--run-dir", str(again), "--quiet", cwd=run.parent)
    numbers = [[untimed(row) for row in rows(folder / "metrics.jsonl")] for folder in (run, again)]
    assert numbers[0] == numbers[1][:5]
    transcripts = [
        (folder / "rollouts.jsonl").read_text(encoding="utf-8") for folder in (run, again)
    ]
    assert transcripts[1].startswith(transcripts[0])


def test_a_finished_run_is_never_written_into(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = command(*SHORT, "--run-dir", str(run), cwd=run.parent)
    assert result.returncode == 2 and "must be empty" in result.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--max-prime", "4"], "--max-prime 4: must be an integer from 5 to 617"),
        (
            ["--min-prime", "20", "--max-prime", "22"],
            "--min-prime 20 --max-prime 22: there must be a prime",
        ),
        (["--total-steps", "-1"], "--total-steps -1: must be an integer of at least 0"),
        (["--model", "no/such"], "--model no/such: is no local folder and cannot be had"),
        (
            ["--run-dir", "/dev/null/run"],
            "--run-dir /dev/null/run: must be a folder that can be written",
        ),
        (["--totl-steps", "5"], "did you mean --total-steps?"),
        (["--lr", "fast"], "--lr fast: must be a number above 0"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(argv, said, tmp_path):
    if "--run-dir" not in argv and "--model" in argv:
        argv = [*argv, "--run-dir", "run"]
    result = command(*argv, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_five_lines_of_the_readme(run):
    """The block as it stands, with this run in the place of its own."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert '"runs/first"' in code
    names: dict = {}
    exec(code.replace('"runs/first"', repr(str(run))), names)
    assert names["proposal"].role is Role.PROPOSER
    assert names["answer"].problem == names["problem"]
    assert names["problem"].task is TaskType.DEDUCTION


def test_the_readme_names_the_two_commands_verbatim():
    lines = [line.strip() for line in (ROOT / "README.md").read_text("utf-8").splitlines()[:40]]
    assert "pip install -r requirements.txt && python model/train.py" in lines
    assert "pip install -r requirements.txt && python -m pytest" in lines


def test_plots_and_summary_read_a_finished_run(run, tmp_path):
    drawn = command(
        str(run), str(run), "--output", "pictures", cwd=tmp_path, script="model/eval/plots.py"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(CELLS) + 2
    table = command(str(run), cwd=tmp_path, script="model/eval/summary.py")
    last = rows(run / "metrics.jsonl")
    evaluated = [row for row in last if "eval/accuracy" in row][-3:]
    after = " ".join(
        f"{sum(row[f'eval/accuracy_{task}'] for row in evaluated) / len(evaluated):.2f}"
        for task in TASKS
    )
    assert "| 0 | 4 | " in table.stdout and f"| {after} |" in table.stdout
    assert "| least distinct |" in table.stdout
    for script in ("model/eval/plots.py", "model/eval/summary.py"):
        refused = command(str(tmp_path), cwd=tmp_path, script=script)
        assert refused.returncode == 2 and "must be a run directory" in refused.stderr
