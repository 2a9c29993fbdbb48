"""The problems and the reward in TRL. Oracles: the columns, written out; the accuracy of `tiny` before and
after TRL's own trainer, by this project's evaluator."""

import copy
import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest

pytest.importorskip("trl", reason="pip install trl==1.16.0 'datasets<5'")

from helpers.chat_models import save_model
from helpers.environments_page import block_with
from trl import GRPOConfig, GRPOTrainer

from constants import ROOT
from custom_types import TASKS, Problem
from model.eval.evaluator import Evaluator, evaluation_problems
from utils.environments.environment import Environment
from utils.environments.for_trl import solver_dataset, solver_reward


def test_a_row_is_a_conversation_and_the_numbers_of_a_problem():
    environment = Environment(max_prime=13)
    problems = [Problem(task, 2, 4, 7) for task in TASKS]
    rows = list(solver_dataset(problems, environment))
    assert rows == [
        {
            "prompt": [{"role": "user", "content": environment.solver_text(problem)}],
            "task": task,
            "x": 2,
            "y": 4,
            "p": 7,
        }
        for task, problem in zip(("abduction", "deduction", "induction"), problems, strict=True)
    ]


@pytest.mark.slow
def test_what_the_page_shows_runs(tmp_path):
    """With a model of random weights, and less to do."""
    save_model(tmp_path)
    code = block_with("GRPOTrainer")
    for shown, small in [
        ('"Qwen/Qwen2.5-0.5B-Instruct", 512', f"{str(tmp_path)!r}, 8"),
        ('output_dir="runs/trl", max_steps=100', f"output_dir={str(tmp_path)!r}, max_steps=1, use_cpu=True, bf16=False"),
    ]:  # fmt: skip
        assert shown in code
        code = code.replace(shown, small)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"WANDB_MODE": "disabled"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train_runtime" in done.stdout


@pytest.mark.slow
def test_its_trainer_teaches_tiny_by_this_reward(warm_tiny, tmp_path):
    """60 rounds of 384 answers, 20 seconds on a core. The warm start has taught no inverses."""
    policy, renderer, args = warm_tiny
    policy = replace(policy, model=copy.deepcopy(policy.model))
    environment = Environment(
        args.min_prime, args.max_prime, language="compact", max_answer_tokens=args.max_answer_tokens
    )
    rounds, problems, attempts = 60, 48, 8
    drawn = environment.draw(rounds * problems, Random(0))
    dataset = solver_dataset(drawn, environment)
    # tiny has no chat template: it reads the text.
    dataset = dataset.map(lambda row: {"prompt": row["prompt"][0]["content"]})
    config = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=rounds * 4,
        per_device_train_batch_size=problems * attempts // 4,
        steps_per_generation=4,
        num_generations=attempts,
        max_completion_length=args.max_answer_tokens,
        beta=0.0,
        learning_rate=args.lr,
        lr_scheduler_type="constant",
        adam_beta2=args.adam_beta2,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=4,
        disable_tqdm=True,
        seed=0,
    )

    def accuracy() -> float:
        asked = evaluation_problems(args)
        return Evaluator(policy, renderer, args).accuracy(asked)["eval/accuracy"]

    before = accuracy()
    trainer = GRPOTrainer(
        policy.model,
        solver_reward(environment, policy.stop_ids),
        args=config,
        train_dataset=dataset,
        processing_class=policy.tokenizer,
    )
    trainer.train()
    rewards = [row["rewards/solver_reward/mean"] for row in trainer.state.log_history[:-1]]
    after = accuracy()
    assert before < 0.3 and after > 0.4, (before, after)
    assert len(rewards) == rounds and sum(rewards[-5:]) > sum(rewards[:5]) + 1.5
