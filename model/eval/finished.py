"""A finished run as somebody to ask: its newest checkpoint, with the run's arguments.

player = load_evaluator("runs/first")
proposal = player.propose(TaskType.DEDUCTION)
"""

from dataclasses import replace
from pathlib import Path

from model.eval.evaluator import Evaluator
from model.policy.load import load_pretrained
from model.run.finished import FinishedRun
from utils.string_formatting import PromptRenderer


def load_evaluator(run_dir: str | Path) -> Evaluator:
    """Asks the newest checkpoint of a run. Raises RunDirectoryError or PolicyError."""
    run = FinishedRun(run_dir)
    args = run.azr_args
    engine = run.config.get("engine", "shared")  # older runs have none beside it
    policy = replace(load_pretrained(str(run.newest_checkpoint)), engine=engine)
    return Evaluator(policy, PromptRenderer.for_policy(policy, args), args)
