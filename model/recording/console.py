"""What a run prints: what it trains, a line a step, and a summary at the end.

Everything goes to stdout, line by line, a terminal or not; `--quiet` silences it all.
"""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean

from compute.symptoms import STEPS, Symptom
from constants import CUDA_MODEL, EMBEDDED_MODELS, REASONER_MODEL, ROOT
from custom_types import ROLES, TASKS, Policy
from model.args import AZRArgs
from model.run.finished import evaluated_rows
from model.run.layout import PLOTS

HEADER_EVERY = 20  # lines
# Titles and widths: of columns, and of groups of them, which stand a line higher.
GROUPS = (("", 15), ("valid proposals", 18), ("rewards", 15), ("entropies", 13))
COLUMNS = (
    ("step", 6), ("accuracy", 9), ("abd", 6), ("ded", 6), ("ind", 6), ("prop", 8), ("solv", 7),
    ("prop", 7), ("solv", 6), ("tokens/s", 10), ("left", 8),
)  # fmt: skip


class Console:
    """Prints start, progress and end of one run."""

    def __init__(self, args: AZRArgs, run_dir: Path):
        self.args, self.run_dir = args, run_dir
        self.accuracy = float("nan")
        self.lines = self.first = 0
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line at once. A closed pipe or a full disk does not end the run; it is quiet then."""
        if self.args.quiet:
            return
        try:
            print(text, flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def start(self, policy: Policy, device: str, precision: str) -> None:
        """Name what is trained, where, how it samples and where the run is kept."""
        if policy.name in EMBEDDED_MODELS:
            self.say(f"training the embedded policy; with a GPU the default is {CUDA_MODEL}")
        args, size = self.args, sum(weight.numel() for weight in policy.model.parameters())
        self.say(
            f"{policy.name}: {size:,} parameters on {device} in {precision}, run directory {self.run_dir}"
        )
        self.say(
            f"sampling: temperature {args.temperature:g}, no top-k, no top-p, no penalties, at most "
            f"{args.max_proposal_tokens} tokens a proposal and {args.max_answer_tokens} an answer; primes {args.min_prime} to {args.max_prime}"
        )

    def resumed(self, checkpoint: Path | None, rows: Sequence[Mapping]) -> None:
        """Name the checkpoint that the run continues from; it starts from step 0 without one. rows: of
        its metrics, up to that checkpoint."""
        if checkpoint is None:
            self.say("there is no checkpoint yet: starting from step 0")
        else:
            self.accuracy = evaluated_rows(rows)[-1]["eval/accuracy"]
            self.say(f"going on from {checkpoint}")

    def warm_started(self, loss: float | None, seconds: float) -> None:
        """The warm start is over. loss: the last one, None where nothing had to be learned."""
        what = "warm start" if self.args.model == REASONER_MODEL else "format-only warm start"
        learned = "kept from before" if loss is None else f"loss {loss:.2f} nats a token"
        self.say(f"{what}: {seconds:.0f} s, {learned}")

    def step(self, metrics: Mapping[str, float]) -> None:
        """Print a line for a row of metrics: accuracy of the last evaluation, valid proposals of each
        task, mean rewards and entropies of proposer and solver, response tokens a second, time left."""
        step = int(metrics["step"])
        self.accuracy = metrics.get("eval/accuracy", self.accuracy)
        if self.lines == 0:
            self.first, self.started = step, time.monotonic()
        if self.lines % HEADER_EVERY == 0:
            self.say(_line((title for title, _ in GROUPS), GROUPS))
            self.say(_line((title for title, _ in COLUMNS), COLUMNS))
        self.lines += 1
        cells = [str(step), f"{self.accuracy:.2f}"]
        if step:
            values = [metrics[f"valid_frac/{task}"] for task in TASKS]
            values += [fmean(metrics[f"reward/{role}_{task}"] for task in TASKS) for role in ROLES]
            values += [metrics[f"entropy/{role}"] for role in ROLES]
            cells += ["-" if isnan(value) else f"{value:.2f}" for value in values]
            cells.append(f"{metrics['perf/tokens_per_second']:,.0f}")
        if step > self.first:
            pace = (time.monotonic() - self.started) / (step - self.first)
            cells.append(_duration(pace * (self.args.total_steps - step)))
        self.say(_line(cells, COLUMNS))

    def warn(self, symptom: Symptom) -> None:
        """A sign that the run has gone wrong has been seen for so many steps that it is said, once."""
        self.say(f"warning: for the last {STEPS} steps {symptom.said}; try {symptom.advice}")

    def end(self, rows: Sequence[Mapping], checkpoint: Path, report: Path) -> None:
        """Print what was reached, where things are, and what can be done with them. rows: all of the
        run's metrics."""
        evaluated = evaluated_rows(rows)
        self.say(f"\n{'accuracy':<12}{'first':>7}{'best':>7}{'at step':>9}{'last':>7}")
        keys = {str(task): f"eval/accuracy_{task}" for task in TASKS} | {"mean": "eval/accuracy"}
        for title, key in keys.items():
            first, last = evaluated[0][key], evaluated[-1][key]
            best = max(evaluated, key=lambda row: row[key])  # the first of equal ones
            self.say(f"{title:<12}{first:>7.2f}{best[key]:>7.2f}{best['step']:>9}{last:>7.2f}")
        done = rows[-1]["step"]
        self.say(f"plots {self.run_dir / PLOTS}, checkpoint {checkpoint}")
        total = self.args.total_steps if done < self.args.total_steps else 2 * max(1, done)
        model, run_dir = Path(os.path.relpath(ROOT / "model")), shlex.quote(str(self.run_dir))
        self.say("next, beside guessing and an exact solver, by band of primes; or further steps:")
        self.say(f"  python {model / 'eval' / 'baselines.py'} --model {run_dir}")
        self.say(
            f"  python {model / 'train.py'} --resume --run-dir {run_dir} --total-steps {total}"
        )
        self.say(f"report {report}")


def _line(cells: Iterable[str], columns: Sequence[tuple[str, int]]) -> str:
    """Cells below the first of the columns' titles."""
    pairs = zip(cells, columns, strict=False)
    return "".join(cell.rjust(width) for cell, (_, width) in pairs)


def _duration(seconds: float) -> str:
    """`1:02:03`, or `2:03`."""
    all_minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(all_minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
