"""Seconds a step of `tiny` takes on a machine that something else keeps busy, against a quiet one.

    python tests/benchmarks/neighbours.py
    python tests/benchmarks/neighbours.py --rounds 5 --output neighbours.json

For each way of waiting (what model/train.py sets, GNU OpenMP's own default, OMP_WAIT_POLICY=passive) and
each number of threads (1, as many as cores, twice as many), alone and beside as many processes as there
are cores that do nothing but count: a process of its own trains `tiny` by the defaults and says the
median of its steps. The quiet and the busy one of a pair follow each other, and so do the ways of waiting.
Prints each as a multiple of the quiet run of what model/train.py sets with the machine's own number of
threads; medians over rounds, and the worst round, since how badly threads wait is chance.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from model.flags import ArgumentError, Flags, flag, parse
from model.run.outputs import output_file
from utils.tables import markdown_table
from utils.threads import CHOSEN, spare_neighbours

CORES = os.cpu_count() or 1
WAYS = {
    "as model/train.py sets it": {},
    "OpenMP's default": {"GOMP_SPINCOUNT": ""},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
THREADS = (1, CORES, 2 * CORES)
WARM_UP, STEPS = 2, 12
LIMIT = 90.0  # seconds that the steps of one run may take


@dataclass(frozen=True)
class NeighbourArgs(Flags):
    """The command line; its last flag is for the processes that this one starts."""

    rounds: int = flag(3, "how often everything is measured", least=1, most=100)
    output: str | None = flag(None, "file for the seconds of every round, as JSON")
    measure: bool = flag(False, "measure here, and print the seconds of a step")


def measure() -> float:
    """The median seconds of a step, of those that were done within the limit."""
    if os.environ.get("GOMP_SPINCOUNT") == "":  # of this benchmark: nothing is set
        del os.environ["GOMP_SPINCOUNT"]
    else:
        spare_neighbours()
    from helpers.trainers import trainer_of  # torch, after the environment is as it shall be

    from model.args import AZRArgs
    from model.policy.load import load_policy
    from model.policy.warm_start import warm_start
    from utils.allocator import keep_freed_memory
    from utils.string_formatting import PromptRenderer

    keep_freed_memory()  # as model/train.py does on a CPU
    args = AZRArgs(warm_start_steps=20)
    policy = load_policy(args)
    warm_start(policy, PromptRenderer.for_policy(policy, args), args)
    trainer, seconds, began = trainer_of(policy, args), [], time.perf_counter()
    while len(seconds) < WARM_UP + STEPS and time.perf_counter() - began < LIMIT:
        started = time.perf_counter()
        trainer.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[WARM_UP:] or seconds)


@contextmanager
def neighbours(count: int):
    """As many processes that count."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run(way: str, threads: int, busy: bool) -> float:
    """Seconds a step, in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    environment |= {"OMP_NUM_THREADS": str(threads), **WAYS[way]}
    with neighbours(CORES if busy else 0):
        result = subprocess.run(
            [sys.executable, __file__, "--measure"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return float(result.stdout.splitlines()[-1])


def main(argv: Sequence[str]) -> int:
    try:
        given = parse(NeighbourArgs, argv, about=__doc__)
        output = None if given.output is None else output_file(given.output)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    if given.measure:
        print(measure())
        return 0
    found: dict[tuple[str, int, bool], list[float]] = {}
    for number in range(given.rounds):
        for threads in THREADS:
            for busy in (False, True):
                for way in WAYS:
                    found.setdefault((way, threads, busy), []).append(run(way, threads, busy))
        print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
    reference = median(found[next(iter(WAYS)), CORES, False])
    rows = []
    for way in WAYS:
        for threads in THREADS:
            row = {"threads wait": way, "threads": str(threads)}
            for busy, name in ((False, "quiet"), (True, "busy")):
                own = [seconds / reference for seconds in found[way, threads, busy]]
                row |= {name: f"{median(own):.2f}", f"{name}, worst": f"{max(own):.2f}"}
            rows.append(row)
    print(f"{CORES} cores; 1.00 is {reference:.3f} seconds a step")
    print(markdown_table(rows))
    if output is not None:
        named = {f"{way}, {n} threads, {'busy' if b else 'quiet'}": own for (way, n, b), own in found.items()}  # fmt: skip
        text = json.dumps(named, indent=1) + "\n"
        output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
