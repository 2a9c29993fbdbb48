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
from model.adapters import merged_weights
from model.args import ArgumentError, AZRArgs, parse_args
from model.eval.evaluator import Evaluator, evaluation_problems
from model.plan import plan
from model.policy import PolicyError, load_policy
from model.trainer import AZRTrainer
from model.warm_start import warm_start
from utils.processes import gather
from utils.recorder import Recorder, Silence
from utils.run_directory import RunDirectoryError
from utils.signals import StopSignal
from utils.string_formatting import PromptRenderer


def train(args: AZRArgs) -> int:
    """One run, from arguments to a run directory, in each of its processes; the number of the signal
    that ended it, or 0. Raises RunDirectoryError or PolicyError."""
    cuda = torch.cuda.is_available() and args.model != TINY_MODEL
    accelerator = Accelerator(cpu=not cuda, mixed_precision="bf16" if cuda else "no")
    recorder = Recorder(args) if accelerator.is_main_process else Silence()
    try:
        policy = load_policy(args)
    except BaseException:  # an interrupt too: nothing has been run yet
        recorder.discard()
        raise
    set_seed(args.seed)
    torch.use_deterministic_algorithms(not cuda)
    recorder.start(policy, str(accelerator.device))

    renderer = PromptRenderer.for_policy(policy, args)
    if args.warm_starts:
        started = time.perf_counter()
        loss = warm_start(policy, renderer, args)
        recorder.warm_started(loss, time.perf_counter() - started)
    trainer = AZRTrainer(policy, renderer, args, accelerator)
    evaluator = Evaluator(policy, renderer, args)
    with recorder, StopSignal() as stop:
        _loop(args, trainer, evaluator, recorder, stop)
    weights = merged_weights(policy.model) if args.lora_rank else None
    recorder.finish(policy, trainer.steps, weights)
    accelerator.wait_for_everyone()  # a process that ends alone would end the others
    accelerator.end_training()
    return stop.number


def _loop(args, trainer: AZRTrainer, evaluator: Evaluator, recorder: Silence, stop: StopSignal):
    """`total_steps` steps, one row of metrics each; row 0 is the evaluation before training. Ends
    early after a step in which any process was asked to stop."""
    problems = evaluation_problems(args)
    for step in range(args.total_steps + 1):
        metrics = trainer.step() if step else {"step": 0}
        if step % args.eval_every == 0:
            started = time.perf_counter()
            with trainer.accelerator.autocast():
                metrics |= evaluator.accuracy(problems)
                if args.eval_uniform:
                    metrics |= evaluator.uniform_reward()
            metrics["time/eval"] = time.perf_counter() - started
        trained = list(zip(trainer.scored, trainer.advantages, strict=True))
        recorder.record(metrics, trained, trainer.played)
        stop.number = max(gather([stop.number]))
        if stop.number:
            break


def gpu_memory() -> float | None:
    """GiB of this machine's GPU, None where there is none."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 2**30


def main(argv: Sequence[str]) -> int:
    """Exit status: 0; 2 after one sentence about what cannot be done or does not fit; or 128 and the
    number of the signal that ended the run."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        args = parse_args(argv, gpu_memory=gpu_memory())
        if args.plan:
            text, fits = plan(args)
            print(text)
            return 0 if fits else 2
        stopped = train(args)
    except (ArgumentError, RunDirectoryError, PolicyError) as error:
        print(error, file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"out of memory: lower --rollout-rows {args.rollout_rows} (sampling) and "
            f"--microbatch-tokens {args.microbatch_tokens} (update), or train adapters with "
            f"--lora-rank; --plan shows what a GPU is needed for",
            file=sys.stderr,
        )
        return 2
    return 128 + stopped if stopped else 0


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU, of Python, or of a CPU as torch says it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "can't allocate memory" in str(error)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
