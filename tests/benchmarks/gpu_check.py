"""Tries and measures on this machine's GPU what `model/train.py` does on one.

    python tests/benchmarks/gpu_check.py --output gpu.json
    python tests/benchmarks/gpu_check.py --only attention,decode --seconds 30
    python tests/benchmarks/gpu_check.py --answer-tokens 512 --only step

Random weights of Qwen2.5-3B's shape: nothing is downloaded. Each part is a process of its own, forked from
this one, which has imported everything and touched no GPU: a part that fails, hangs or takes all memory ends
alone. Figures are written as they come. On a machine without a GPU the same parts run small, which
tries the program and measures nothing. Exit status 1 if a part failed or something does not hold.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "benchmarks")]

from utils.before_torch import settle

settle()

import torch
from gpu import attention, exact, runs, speed
from gpu.bench import LARGE, SMALL, Bench, OutOfTime, Skipped, flattened
from transformers.utils import logging as transformers_logging

from model.flags import ArgumentError, Flags, flag, parse
from model.policy.weights import in_short
from model.run.outputs import output_file
from utils.tables import markdown_table

PARTS: dict[str, Callable[[Bench], None]] = {
    "versions": runs.versions,
    "attention": attention.attention,
    "exact": exact.exact,
    "decode": speed.decode,
    "prefill": speed.prefill,
    "update": speed.update,
    "memory": speed.memory,
    "step": runs.step,
    "signal": runs.stopped,
    "checkpoint": runs.checkpoint,
    "smollm2": runs.smollm2,
}
DONE, WRONG, SKIPPED, CUT_SHORT, FAILED = "done", "wrong", "skipped", "out of time", "failed"
GRACE = 60.0  # seconds after which a part that does not look at its clock is killed
CLOSING = 10.0  # seconds that a part whose results are here may take to end


@dataclass(frozen=True)
class GpuCheckArgs(Flags):
    """The command line."""

    only: str | None = flag(None, f"parts that run, separated by commas [{','.join(PARTS)}]")
    skip: str | None = flag(None, "parts that do not run, separated by commas")
    output: str | None = flag(None, "file for all figures, as JSON")
    device: str = flag("auto", "where it runs", choices=("auto", "cpu", "cuda"))
    seconds: int = flag(90, "about how long a part may take", least=1, most=3600)
    decode: str = flag("both", "what decodes", choices=("both", "eager", "graph"))
    answer_tokens: int | None = flag(
        None,
        "tokens of a response in the part `step`; the preset has 512 [64, on a CPU 8]",
        least=1,
    )
    checkpoint_layers: int = flag(
        4, "layers of the model that is saved; 36 is the whole one", least=1, most=36
    )
    smollm2_steps: int = flag(300, "steps of SmolLM2's runs", least=1)
    smollm2_seconds: int = flag(480, "about how long they may take", least=1, most=36000)

    def __post_init__(self):
        super().__post_init__()
        for name in ("only", "skip"):
            unknown = [part for part in _listed(getattr(self, name)) if part not in PARTS]
            if unknown:
                raise ArgumentError(
                    f"--{name} {getattr(self, name)}: must be parts among {', '.join(PARTS)}, separated "
                    f"by commas"
                )
        if not self.parts:
            raise ArgumentError(f"--skip {self.skip}: must leave a part that runs")

    @property
    def parts(self) -> list[str]:
        """The parts that run, in order."""
        wanted, unwanted = _listed(self.only) or list(PARTS), _listed(self.skip)
        return [part for part in PARTS if part in wanted and part not in unwanted]

    def limit(self, part: str) -> float:
        """Seconds of a part."""
        return self.smollm2_seconds if part == "smollm2" else self.seconds


def _listed(parts: str | None) -> list[str]:
    return [] if parts is None else parts.split(",")


# ---------------------------------------------------------------- inside a part's process


def inside(part: str, args: GpuCheckArgs, sender: Connection) -> None:
    """Runs a part; sends each figure with its name, and last how it ended and why."""
    os.setpgid(0, 0)  # so that all it starts can be ended with it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    def say(value, *name: str) -> None:
        sender.send((name, value))

    ended, reason = DONE, ""
    try:
        cuda = args.device != "cpu" and torch.cuda.is_available()
        if args.device == "cuda" and not cuda:
            raise Skipped("torch finds no GPU")
        device, sizes = (torch.device("cuda"), LARGE) if cuda else (torch.device("cpu"), SMALL)
        bench = Bench(device, sizes, args.limit(part), say, args)
        PARTS[part](bench)
        if bench.faults:
            ended, reason = WRONG, "; ".join(bench.faults)
    except Skipped as error:
        ended, reason = SKIPPED, str(error)
    except OutOfTime:
        ended, reason = CUT_SHORT, f"after {args.limit(part)} seconds"
    except Exception as error:
        traceback.print_exc()
        ended, reason = FAILED, in_short(error)
        with suppress(Exception):  # after an error of CUDA nothing may work
            say(bench.memory(), "memory then, GiB")
    sender.send((None, (ended, reason)))


# ---------------------------------------------------------------- around it


def context_of_parts() -> multiprocessing.context.BaseContext:
    """How processes are made: by forks, unless a library that was imported has touched the GPU already,
    after which a forked process finds none."""
    pid = os.fork()
    if pid == 0:
        works = False
        with suppress(BaseException):
            present = torch.version.cuda is not None and torch.cuda._device_count_nvml() > 0
            works = not torch.cuda._is_in_bad_fork() and (torch.cuda.is_available() or not present)
        os._exit(int(not works))
    works = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return multiprocessing.get_context("fork" if works else "spawn")


def run(part: str, args: GpuCheckArgs, context, record: dict, save: Callable[[], None]) -> None:
    """Fills the record of a part, and saves after each figure that comes."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=inside, args=(part, args, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    record |= {"status": FAILED, "reason": "", "seconds": 0.0, "results": {}}
    try:
        while True:
            left = started + args.limit(part) + GRACE - time.monotonic()
            if not receiver.poll(max(0.0, left)):
                record["reason"] = f"did not end in {args.limit(part) + GRACE:.0f} seconds"
                break
            name, value = receiver.recv()
            record["seconds"] = round(time.monotonic() - started, 1)
            if name is None:
                record["status"], record["reason"] = value
                break
            place = record["results"]
            for word in name[:-1]:
                place = place.setdefault(word, {})
            place[name[-1]] = value
            save()
    except EOFError:  # it is dead
        process.join()
        record["reason"] = f"its process ended with {process.exitcode}"
    finally:
        process.join(timeout=CLOSING)
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        save()


def table(records: dict[str, dict]) -> str:
    """A line for each figure, and one for each part."""
    rows = []
    for part, record in records.items():
        ending = f"{record['status']}" + (f": {record['reason']}" if record["reason"] else "")
        rows.append({"part": part, "what": f"{record['seconds']} s", "figure": in_cell(ending)})
        for name, value in flattened(record["results"]):
            rows.append({"part": part, "what": in_cell(", ".join(name)), "figure": figure(value)})
    return markdown_table(rows)


def figure(value) -> str:
    """A figure as a table shows it, with three digits."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, list):
        more = f" and {len(value) - 1} more" if len(value) > 1 else ""
        return in_cell(f"{value[0]}{more}")
    return f"{value:,}" if isinstance(value, int) else in_cell(str(value))


def in_cell(text: str) -> str:
    """A text in one line, without what would end a cell."""
    return " ".join(text.split()).replace("|", "/")


def main(argv: list[str]) -> int:
    try:
        args = parse(GpuCheckArgs, argv, about=__doc__)
        output = None if args.output is None else output_file(args.output)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    context, records = context_of_parts(), {}

    def save() -> None:
        if output is not None:
            output.write_text(json.dumps({"flags": argv, "parts": records}, indent=1) + "\n")

    for part in args.parts:
        print(f"{part} ...", end=" ", flush=True)
        record = records.setdefault(part, {})
        run(part, args, context, record, save)
        print(f"{record['status']}, {record['seconds']} s {record['reason']}", flush=True)
    print("\n" + table(records), end="")
    return int(any(record["status"] in (WRONG, FAILED) for record in records.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
