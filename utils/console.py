"""What a run says: a live line where there is a terminal, a line at each evaluation where not.

Everything goes to stdout; `--quiet` silences it all.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from constants import CUDA_MODEL, TINY_MODEL
from custom_types import TASKS, Policy
from model.args import AZRArgs


class Console:
    """Start, progress and end of one run. A context manager around the steps."""

    def __init__(self, args: AZRArgs, run_dir: Path):
        self.args, self.run_dir = args, run_dir
        self.rich = RichConsole(
            quiet=args.quiet, file=sys.stdout, highlight=False, markup=False, soft_wrap=True
        )
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[status]}", markup=False),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.rich, disable=args.quiet, transient=True)
        self.bar = self.progress.add_task("steps", total=args.total_steps, status="")
        self.accuracy = self.first_accuracy = float("nan")

    def start(self, policy: Policy, device: str) -> None:
        """Name what is trained, where, how it samples and where the run is kept."""
        if policy.name == TINY_MODEL:
            self.rich.print(f"training the embedded policy; with a GPU the default is {CUDA_MODEL}")
        args, size = self.args, sum(weight.numel() for weight in policy.model.parameters())
        self.rich.print(
            f"{policy.name}: {size:,} parameters on {device}, run directory {self.run_dir}"
        )
        self.rich.print(
            f"sampling: temperature {args.temperature:g}, no top-k, no top-p, no penalties, at most "
            f"{args.max_proposal_tokens} tokens a proposal and {args.max_answer_tokens} an answer; primes {args.min_prime} to {args.max_prime}"
        )

    def resumed(self, checkpoint: Path | None) -> None:
        """The run goes on, or starts again where it had no checkpoint yet."""
        if checkpoint is None:
            self.rich.print("there is no checkpoint yet: starting from step 0")
        else:
            self.rich.print(f"going on from {checkpoint}")

    def warm_started(self, loss: float, seconds: float) -> None:
        """The warm start is over."""
        self.rich.print(f"format-only warm start: {seconds:.0f} s, loss {loss:.2f} nats a token")

    def __enter__(self) -> "Console":
        self.progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.progress.__exit__(*error)

    def step(self, metrics: Mapping[str, float]) -> None:
        """One row of metrics: moves the bar; prints a line where it evaluates."""
        evaluated = "eval/accuracy" in metrics
        if evaluated:
            self.accuracy = metrics["eval/accuracy"]
        status = f"accuracy {self.accuracy:.2f}"
        if metrics["step"] == 0:
            self.first_accuracy = self.accuracy
        else:
            valid = " ".join(f"{metrics[f'valid_frac/{task}']:.2f}" for task in TASKS)
            status += f"  valid proposals {valid}"
        self.progress.update(self.bar, completed=metrics["step"], status=status)
        if evaluated:
            self.rich.print(f"step {metrics['step']:>4}  {status}")

    def end(self, checkpoint: Path) -> None:
        """Where things are."""
        self.rich.print(f"accuracy {self.first_accuracy:.2f} -> {self.accuracy:.2f}")
        self.rich.print(f"plots {self.run_dir / 'plots'}, checkpoint {checkpoint}")
