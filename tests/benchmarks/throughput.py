"""Completions a second of self-play steps: with the shared engine, alone or beside the plain engine and
TRL's GRPOTrainer on the same work.

    python tests/benchmarks/throughput.py --work tiny
    python tests/benchmarks/throughput.py --work tiny --minibatches 4 --against plain --against trl
    python tests/benchmarks/throughput.py --work smollm2 --against plain --against trl --output throughput.json
    python tests/benchmarks/throughput.py --work Qwen/Qwen2.5-3B-Instruct --against trl        # on a GPU

Each side is a separate process, one after the other, with the same model, the same kind of problems,
8 attempts at each, the same sampling settings, number of completions and of optimizer steps. `shared`
and `plain` are `AZRTrainer`, whose problems the environment draws, so that all it samples are answers.
Prints medians, with the least and the most, over the steps after the first, and the ratios; how long the
matrix products of a step would take at the rate of this machine's best one, which is a floor; and how far
the gradients are apart that `shared` and TRL compute of the same completions.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from utils.before_torch import settle

settle()

import torch
from accelerate import Accelerator
from helpers.trainers import trainer_of
from torch.utils.flop_counter import FlopCounterMode

from constants import CUDA_MODEL, SMOLLM2_MODEL, TINY_MODEL
from custom_types import Policy, TaskType
from model.args import AZRArgs
from model.flags import ArgumentError, Flags, flag, parse
from model.policy.load import load_policy
from model.policy.warm_start import warm_start
from model.presets import language_by_name, preset
from model.run.outputs import output_file
from prompts import CHAT
from utils.allocator import keep_freed_memory
from utils.attention import avoid_cudnn_attention
from utils.string_formatting import PromptRenderer
from utils.tables import markdown_table

TRL = "trl==1.16.0"
WARM_UP = 1  # steps
RATE_TRIALS = 10
COMMON = dict(proposer="uniform", n_attempts=8, lr=1e-6, lr_warmup=0, entropy_coef=0.0)
# Of each work: 768 completions of about 3 tokens; 48 of up to 48 after prompts of about 80; and on a GPU, in
# bfloat16, 768 of up to 512.
WORKS = {
    TINY_MODEL: dict(batch_size=32),
    SMOLLM2_MODEL: dict(batch_size=2, max_answer_tokens=48, max_prime=31),
    CUDA_MODEL: dict(batch_size=32, train_attempts=True, max_answer_tokens=512, max_prime=31),
}
WORDY = (
    "Find the integer $letter for which $equation holds. Think step by step, and write what you find "
    r"in \boxed{}, in at most $max_tokens tokens."
)


def load(work: str, minibatches: int) -> tuple[Policy, AZRArgs]:
    """What both sides start from."""
    given = {**preset(language_by_name(work)), **WORKS[work], **COMMON, "minibatches": minibatches}
    args = AZRArgs(model=work, **given)
    policy = load_policy(args)
    if args.warm_starts:
        warm_start(policy, PromptRenderer.for_policy(policy, args), args)
        return policy, args
    solver = dict.fromkeys(TaskType, WORDY)
    return replace(policy, prompts=replace(CHAT, solver=solver, examples=0)), args


def on_gpu(work: str) -> bool:
    return work == CUDA_MODEL


def peak_gigabytes(work: str) -> float:
    """The most this process has had in memory, in 10^9 bytes; of a GPU, in its tensors."""
    if on_gpu(work):
        return torch.cuda.max_memory_allocated() / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


def our_side(engine: str, work: str, minibatches: int, steps: int) -> dict:
    """Seconds and tokens of `steps` steps with an engine, the peak, and the floor of a step."""
    gpu = on_gpu(work)
    if gpu:  # both as model/train.py does
        avoid_cudnn_attention()
    else:
        keep_freed_memory()
    policy, args = load(work, minibatches)
    accelerator = Accelerator(cpu=not gpu, mixed_precision="bf16" if gpu else "no")
    policy.model.to(accelerator.device)
    trainer = trainer_of(replace(policy, engine=engine), args, accelerator=accelerator)
    rows = []
    for _ in range(steps):
        started = time.perf_counter()
        done = trainer.step()
        seconds, sampled = time.perf_counter() - started, done.played.completions
        rows.append({
            "seconds": seconds,
            "generate": done.metrics["time/rollout"],
            "update": seconds - done.metrics["time/rollout"],
            "completions": len(sampled),
            "tokens": sum(len(one.response_ids) for one in sampled),
            "prompt": fmean(len(one.prompt_ids) for one in sampled),
        })  # fmt: skip
    peak = peak_gigabytes(work)
    if gpu:  # a floor of float32 products is none
        return {"steps": rows, "peak": peak}
    with FlopCounterMode(display=False) as counter:
        trainer.step()
    return {"steps": rows, "peak": peak, "floor": counter.get_total_flops() / matrix_rate()}


def matrix_rate() -> float:
    """Floating-point operations a second of a large product of float32 matrices, the best of several."""
    size, seconds = 2048, []
    a, b = torch.randn(2, size, size)
    for _ in range(RATE_TRIALS):
        started = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def trl_side(work: str, minibatches: int, steps: int) -> dict:
    from trl_grpo import run

    return run(*load(work, minibatches), steps)


SIDES: dict[str, Callable[[str, int, int], dict]] = {
    "shared": partial(our_side, "shared"),
    "plain": partial(our_side, "plain"),
    "trl": trl_side,
}


@dataclass(frozen=True)
class ThroughputArgs(Flags):
    """The command line; its last flag is for the processes that this one starts."""

    work: str = flag(TINY_MODEL, "what is measured", choices=tuple(WORKS))
    minibatches: int = flag(1, "optimizer steps in a self-play step", least=1)
    steps: int | None = flag(None, "steps that are measured [20 of tiny, else 5]", least=5)
    against: tuple[str, ...] = flag(
        (),
        f"measure this one too, the plain engine or TRL (pip install {TRL}); may be repeated",
        choices=("plain", "trl"),
        repeatable=True,
    )
    output: str | None = flag(None, "file for the figures of every step, as JSON")
    side: str | None = flag(None, "measure this side here, and print JSON", choices=tuple(SIDES))

    @property
    def measured_steps(self) -> int:
        return self.steps or (20 if self.work == TINY_MODEL else 5)


def measured(side: str, args: ThroughputArgs) -> dict:
    """What another process measures of a side, without the steps of warming up."""
    settings = ["--minibatches", str(args.minibatches), "--steps", str(args.measured_steps)]
    result = json.loads(last_line(__file__, "--work", args.work, "--side", side, *settings))
    return {**result, "steps": result["steps"][WARM_UP:]}


def last_line(*arguments: str) -> str:
    """What Python prints last when it runs a script in another process. Raises SystemExit, with what the
    script said, if it fails."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return (done.stdout.splitlines() or [""])[-1]


def columns(result: dict) -> dict[str, list[float]]:
    """What is compared of each step."""
    steps = result["steps"]
    return {
        "seconds a step": [one["seconds"] for one in steps],
        "generate": [one["generate"] for one in steps],
        "update": [one["update"] for one in steps],
        "completions/s": [one["completions"] / one["seconds"] for one in steps],
        "tokens a completion": [one["tokens"] / one["completions"] for one in steps],
        "tokens a prompt": [one["prompt"] for one in steps],
        "peak GB": [result["peak"]],
    }


def table(results: dict[str, dict]) -> str:
    """A line for each side and, of each but the first, the ratio of the first's medians to its own."""
    sides = {name: columns(result) for name, result in results.items()}
    rows = [
        {"": name, **{key: _spread(values) for key, values in side.items()}}
        for name, side in sides.items()
    ]
    first, *others = sides
    for name in others:
        ratios = {
            key: f"{median(values) / median(sides[name][key]):.2f}"
            for key, values in sides[first].items()
        }
        rows.append({"": f"{first} / {name}, medians", **ratios})
    return markdown_table(rows)


def _spread(values: list[float]) -> str:
    low, middle, high = (f"{value:.3g}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main(argv: list[str]) -> int:
    try:
        args = parse(ThroughputArgs, argv, about=__doc__)
        if "trl" in args.against and not find_spec("trl"):
            raise ArgumentError(f"--against trl: must be installed; pip install {TRL}")
        if on_gpu(args.work) and not torch.cuda.is_available():
            raise ArgumentError(f"--work {args.work}: must have a GPU, and here is none")
        output = None if args.output is None else output_file(args.output)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    if args.side is not None:
        result = SIDES[args.side](args.work, args.minibatches, WARM_UP + args.measured_steps)
        print("\n" + json.dumps(result))
        return 0
    names = ["shared", *dict.fromkeys(args.against)]
    results = {name: measured(name, args) for name in names}
    print(table(results), end="")
    for name, result in results.items():
        if "floor" in result:
            seconds = median(one["seconds"] for one in result["steps"])
            floor = result["floor"]
            print(
                f"\nfloor of {name}: {floor:.3g} seconds a step; it takes {seconds / floor:.2f} times that"
            )
        if "gradient_difference" in result:
            print(f"\nrelative difference of the gradients: {result['gradient_difference']:.1e}")
    if output is not None:
        output.write_text(json.dumps({"work": args.work, **results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
