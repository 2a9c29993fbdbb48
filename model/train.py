"""Trains a policy by Absolute Zero self-play and leaves a run directory.

    python model/train.py                      # tiny on a CPU, Qwen2.5-3B-Instruct on a GPU
    python model/train.py --seed 1 --max-prime 23
    python model/train.py --help

One language model proposes problems about x * y ≡ 1 (mod p), solves them, is paid by a verifier, and
is updated with task-relative REINFORCE++. `model/trainer.py` is the method; this file is argv, seeds,
the loop and files.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # runs from any folder

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers.utils import logging as transformers_logging

from constants import TINY_MODEL
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval.evaluator import Evaluator, evaluation_problems
from model.policy import PolicyError, load_policy
from model.trainer import AZRTrainer
from model.warm_start import warm_start
from utils.console import Console
from utils.plots import save_plots
from utils.run_directory import RunDirectory, RunDirectoryError
from utils.string_formatting import PromptRenderer
from utils.trackers import WandbTracker


def train(args: AZRArgs) -> Path:
    """One run, from arguments to a run directory. Raises RunDirectoryError or PolicyError."""
    run = RunDirectory(args)
    try:
        policy = load_policy(args)
    except BaseException:  # an interrupt too: nothing has been run yet
        run.discard()
        raise
    set_seed(args.seed)
    cuda = torch.cuda.is_available() and args.model != TINY_MODEL
    torch.use_deterministic_algorithms(not cuda)
    accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no")
    run.write_config(args, str(accelerator.device))
    console = Console(args, run.path)
    console.start(policy, str(accelerator.device))

    renderer = PromptRenderer.for_policy(policy, args)
    if args.warm_starts:
        started = time.perf_counter()
        loss = warm_start(policy, renderer, args)
        console.warm_started(loss, time.perf_counter() - started)
    trainer = AZRTrainer(policy, renderer, args, accelerator)
    evaluator = Evaluator(policy, renderer, args)
    tracker = WandbTracker(args, run.path)
    _loop(args, run, trainer, evaluator, tracker, console)
    tracker.close()
    checkpoint = run.save_checkpoint(policy, trainer.steps)
    run.close()
    save_plots([run.path], run.path / "plots")
    console.end(checkpoint)
    return run.path


def _loop(args, run, trainer: AZRTrainer, evaluator: Evaluator, tracker, console) -> None:
    """`total_steps` steps, one row of metrics each; row 0 is the evaluation before training."""
    problems = evaluation_problems(args)
    with console:
        for step in range(args.total_steps + 1):
            metrics = trainer.step() if step else {"step": 0}
            if step % args.eval_every == 0:
                started = time.perf_counter()
                with trainer.accelerator.autocast():
                    metrics |= evaluator.accuracy(problems)
                    if args.eval_uniform:
                        metrics |= evaluator.uniform_reward()
                metrics["time/eval"] = time.perf_counter() - started
            run.log_metrics(metrics)
            run.log_rollouts(
                step,
                trainer.scored,
                trainer.advantages,
                trainer.policy.tokenizer,
                args.logged_rollouts,
            )
            run.log_problems(step, trainer.played)
            tracker.log(metrics)
            console.step(metrics)


def gpu_memory() -> float | None:
    """GiB of this machine's GPU, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be done."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        train(parse_args(argv, gpu_memory=gpu_memory()))
    except (ArgumentError, RunDirectoryError, PolicyError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
