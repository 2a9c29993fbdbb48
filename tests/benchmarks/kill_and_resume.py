"""Kills runs with SIGKILL, resumes them, and compares them with one that was never interrupted.

    python tests/benchmarks/kill_and_resume.py --kills 50

Every run is a process of its own, forked from this one, which has imported everything and computed
nothing. It is killed at a random call of a named function (or at a random moment), resumed, perhaps
killed again, and resumed until it is done. Prints a line for each and exits 1 if anything differs.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

os.environ["OMP_NUM_THREADS"] = "1"
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from helpers.run_contents import SMALL, contents, unreadable

import model.recording.recorder
import model.run.checkpoints
from model import train
from model.eval.evaluator import Evaluator
from model.flags import ArgumentError, Flags, flag, parse
from model.run.checkpoints import Checkpoints
from model.run.directory import RunDirectory
from model.run.logs import Log
from model.trainer import AZRTrainer

RUN = [*SMALL, "--total-steps", "12", "--eval-every", "4", "--checkpoint-every", "2", "--quiet"]
# Where a run is killed: the object and the function before whose k-th call it happens.
POINTS = {
    "start": (train, "load_policy"),
    "rewind": (RunDirectory, "rewind"),
    "configuration": (RunDirectory, "write_config"),
    "warm start": (train, "warm_start"),
    "rollout": (AZRTrainer, "_rollout"),
    "update": (AZRTrainer, "_update"),
    "evaluation": (Evaluator, "verdicts"),
    "log": (Log, "append"),
    "checkpoint": (model.run.checkpoints, "_write"),
    "checkpoint state": (model.recording.recorder, "save_state"),
    "checkpoint sync": (model.run.checkpoints, "sync"),
    "checkpoint rename": (Path, "rename"),
    "pointers": (Checkpoints, "settle"),
    "pointer replace": (os, "replace"),
    "rotation": (shutil, "rmtree"),
    "plots": (model.recording.recorder, "save_plots"),
}


ANY_MOMENT = "a random moment"


@dataclass(frozen=True)
class KillArgs(Flags):
    """The command line."""

    kills: int = flag(50, "runs that are killed", least=1)
    seed: int = flag(0, "seed of the moments", least=0)
    points: tuple[str, ...] = flag(
        (),
        "where a run is killed; may be repeated [everywhere]",
        choices=(ANY_MOMENT, *POINTS),
        repeatable=True,
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch(point: str, action) -> None:
    """Have `action` called with the number of each call at a point, and its arguments, before it."""
    owner, name = POINTS[point]
    original, calls = getattr(owner, name), Counter()

    def watched(*args, **kwargs):
        calls[point] += 1
        action(calls[point], args)
        return original(*args, **kwargs)

    setattr(owner, name, watched)


def killer(point: str, at: int):
    """An action that ends the process at the call `at`; a log has half of its line by then."""

    def action(call: int, args: tuple) -> None:
        if call == at:
            if point == "log":
                log, row = args
                text = json.dumps(row)
                log._file.write(text[: len(text) // 2].encode())
                log._file.flush()
            die()

    return action


def forked(argv: list[str], prepare=lambda: None, seconds: float | None = None) -> int:
    """Run train.py in a process of its own; its exit status, negative for a signal's number. seconds:
    after which it is killed."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            prepare()
            status = train.main(argv)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def count_calls(run_dir: Path) -> tuple[dict[str, int], float]:
    """How often each point is passed in an uninterrupted run in `run_dir`, and its seconds."""
    file = run_dir.with_suffix(".calls")

    def prepare() -> None:
        counts: Counter = Counter()
        for point in POINTS:
            watch(point, lambda call, args, point=point: counts.update([point]))
        original = model.recording.recorder.Recorder.finish

        def finish(recorder):
            original(recorder)
            file.write_text(json.dumps(counts))

        model.recording.recorder.Recorder.finish = finish

    started = time.monotonic()
    if forked([*RUN, "--run-dir", str(run_dir)], prepare) != 0:
        raise SystemExit("the uninterrupted run failed")
    seconds, calls = time.monotonic() - started, json.loads(file.read_text())
    never = POINTS.keys() - calls - {"rewind"}  # which a resumed run alone passes
    if never:
        raise SystemExit(f"an uninterrupted run never passes {', '.join(never)}")
    return calls, seconds


def main(argv: list[str]) -> int:
    try:
        given = parse(KillArgs, argv, about=__doc__.splitlines()[0])
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    points = given.points or (ANY_MOMENT, *POINTS)
    rng, folder = Random(given.seed), Path(tempfile.mkdtemp())
    calls, seconds = count_calls(folder / "whole")
    expected = contents(folder / "whole")
    compared = sum(len(v) for v in expected.values() if isinstance(v, bytes))
    print(f"uninterrupted: {seconds:.1f} s, {compared:,} bytes of files; calls {calls}", flush=True)

    kills, differences, bad = 0, 0, 0
    for number in range(given.kills):
        run_dir, log = folder / f"run{number}", []
        argv = [*RUN, "--run-dir", str(run_dir)]
        once_more = True
        while once_more:
            passed = [p for p in points if p not in POINTS or p in calls or log]
            point = passed[number % len(passed)] if not log else rng.choice(passed)
            if point in POINTS:
                at = rng.randint(1, calls.get(point, 1))
                status = forked(argv, lambda p=point, k=at: watch(p, killer(p, k)))
                log.append(f"{point} {at}")
            else:
                after = rng.uniform(0, seconds)
                status = forked(argv, seconds=after)
                log.append(f"{after:.2f} s")
            if status == -signal.SIGKILL:
                kills += 1
                broken = unreadable(run_dir) if run_dir.exists() else []
                bad += len(broken)
                log += broken
            elif status != 0:
                log.append(f"exit status {status}")
                differences += 1
            argv = [*RUN, "--run-dir", str(run_dir), "--resume"]
            once_more = status == -signal.SIGKILL and rng.random() < 0.3
        status = forked(argv)
        found = contents(run_dir) if status == 0 else {}
        unlike = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
        differences += bool(unlike) or status != 0
        print(f"run {number:>3}, killed at {', '.join(log)}: {unlike or 'equal'}", flush=True)
        shutil.rmtree(run_dir)
    shutil.rmtree(folder)
    print(
        f"{given.kills} runs, {kills} kills: {differences} differ, {bad} unreadable files, "
        f"{compared * given.kills:,} bytes compared"
    )
    return 1 if differences or bad or kills < given.kills else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
