"""Grids of runs of `tiny`: what self-play earns against the same trainer with one thing changed, and
how cost grows with the largest prime.

    python model/eval/study.py --grid arms --first-seed 10 --seeds 10 --output runs/arms
    python model/eval/study.py --grid controls --output runs/study
    python model/eval/study.py --grid reasoner --first-seed 40 --seeds 10 --output runs/reasoner
    python model/eval/study.py --grid growth --output runs/growth
    python model/eval/study.py --grid arms --from diagrams/arms.jsonl.gz --output pictures

Runs `model/train.py --model tiny` for every condition and seed, as many at a time as there are cores,
each on one thread. A run that is finished is not run again, so the same command goes on where it was
stopped. Writes into the output folder `study.jsonl.gz`, the logs, `study.md`, tables, and `study.png`,
accuracy against the answers trained on; `--from` makes the last two again from such logs.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from constants import REASONER_MODEL, ROOT, RUNS_DIR, TINY_MODEL
from custom_types import TASKS
from model.args import AZRArgs, given_values, parse_args
from model.eval.study_results import (
    BY_ANSWERS,
    Endpoint,
    StudyRun,
    arms_table,
    by_condition,
    by_tokens,
    contrasts_table,
    controls_table,
    load_runs,
    save_figure,
    save_runs,
)
from model.flags import ArgumentError, Flags, flag, flag_name, parse
from model.policy.language import language
from model.run.finished import FinishedRun
from model.run.outputs import output_folder
from model.run.rows import RunDirectoryError


class Grid(NamedTuple):
    """panels: of the figure, each with its conditions and their flags; a condition in two panels is
    run once. flags: of every run. contrasts: pairs of conditions, compared seed by seed. model: what is
    trained. endpoint: by what they are compared. watched: further panels of the figure, of the runs of
    `self` alone: series by their labels, and the unit."""

    panels: Mapping[str, Mapping[str, Sequence[str]]]
    flags: Sequence[str] = ()
    contrasts: Sequence[tuple[str, str]] = ()
    model: str = TINY_MODEL
    endpoint: Endpoint = BY_ANSWERS
    watched: Mapping[str, tuple[Mapping[str, str], str]] = {}

    @property
    def conditions(self) -> dict[str, Sequence[str]]:
        return {name: flags for panel in self.panels.values() for name, flags in panel.items()}


# In a flag: the run directory of the condition `self` with the same seed, or with the next one.
SELF, OTHER = "{self}", "{other}"
# model/eval/README.md is the protocol of this one.
ARMS = {
    "self": (),
    "untrained": ("--proposer", "untrained"),
    "snapshot": ("--proposer", "frozen"),
    "uniform": ("--proposer", "uniform"),
    "yoked": ("--proposer", "yoked", "--yoked-to", SELF),
    "decoy": ("--proposer", "decoy"),
    "no proposer": ("--proposer", "none", "--seed-problems", "1000"),
}
# The default when what is written of these grids was measured.
FORMER_WEIGHT = "--proposer-weight", "3"
# `reasoner`: as many steps as it takes to sample `TOKENS`, with some to spare.
TOKENS = 400_000
REASONER_CONTROLS = {
    "self": ("--total-steps", "40"),
    "self, variance": ("--total-steps", "40", "--reward", "variance"),
    "yoked": ("--total-steps", "40", "--proposer", "yoked", "--yoked-to", SELF),
    "replayed": ("--total-steps", "40", "--proposer", "replayed", "--yoked-to", OTHER),
    "decoy": ("--total-steps", "26", "--proposer", "decoy"),
    "snapshot": ("--total-steps", "34", "--proposer", "frozen"),
}
REASONER_RIVALS = {
    "self": REASONER_CONTROLS["self"],
    "uniform": ("--total-steps", "26", "--proposer", "uniform"),
    "adaptive": ("--total-steps", "34", "--proposer", "adaptive"),
    "log-uniform": ("--total-steps", "44", "--proposer", "log_uniform"),
    "window": ("--total-steps", "48", "--proposer", "window"),
}
REASONER_ARMS = REASONER_CONTROLS | REASONER_RIVALS
# What that study left open.
REASONER_VARIANTS = {
    "self": REASONER_CONTROLS["self"],
    "self, 16": ("--total-steps", "44", "--batch-size", "16"),
    "self, alignment": ("--total-steps", "30", "--reward", "alignment"),
    "uniform": REASONER_RIVALS["uniform"],
    "uniform, 16": ("--total-steps", "36", "--proposer", "uniform", "--batch-size", "16"),
    "uniform, 8": ("--total-steps", "64", "--proposer", "uniform", "--batch-size", "8"),
}
REASONER_FLAGS = "--eval-every", "2", "--no-eval-uniform"
GRIDS = {
    "arms": Grid(
        {"who proposes": ARMS},
        flags=("--total-steps", "120"),
        contrasts=(*((arm, "self") for arm in ARMS if arm != "self"), ("yoked", "decoy")),
    ),
    "reasoner": Grid(
        {
            "self-play and its controls": REASONER_CONTROLS,
            "self-play and what the environment draws": REASONER_RIVALS,
        },
        flags=REASONER_FLAGS,
        contrasts=tuple(("self", arm) for arm in REASONER_ARMS if arm != "self"),
        model=REASONER_MODEL,
        endpoint=by_tokens(TOKENS, goal=0.3),
        watched={
            "what self proposes": (
                {str(task): f"proposed_prime_mean/{task}" for task in TASKS},
                "mean prime of the valid proposals",
            ),
            "how long its responses are": (
                {"proposals and answers": "completions/mean_length"},
                "tokens of a response",
            ),
        },
    ),
    "variants": Grid(
        {"variants of self-play and of uniform draws": REASONER_VARIANTS},
        flags=REASONER_FLAGS,
        contrasts=(
            ("self", "self, alignment"),
            ("self", "uniform, 16"),
            ("self", "uniform, 8"),
            ("self, 16", "uniform, 8"),
        ),
        model=REASONER_MODEL,
        endpoint=by_tokens(TOKENS, goal=0.3),
    ),
    "controls": Grid(
        {
            "what fills up a batch": {
                "self": (),
                "self, uniform refill": ("--refill", "uniform"),
                "uniform, uniform refill": ("--proposer", "uniform", "--refill", "uniform"),
            },
            "what is paid": {
                "self": (),
                "constant reward": ("--reward", "constant"),
                "format reward": ("--reward", "format"),
                "extreme reward -0.5": ("--extreme-reward", "-0.5"),
                "invalid reward -1": ("--invalid-reward", "-1"),
                "no crowding cost": ("--crowding-cost", "0"),
            },
            "how it is learned": {
                "self": (),
                "global advantage": ("--advantage", "global"),
                "grpo advantage": ("--advantage", "grpo"),
                "proposer weight 1": ("--proposer-weight", "1"),
                "separate triples": ("--no-share-triples",),
                "entropy 0.001": ("--entropy-coef", "0.001"),
            },
        },
        flags=FORMER_WEIGHT,
    ),
    "growth": Grid(
        {
            "largest prime": {
                "13": ("--max-prime", "13"),
                "23": ("--max-prime", "23"),
                "31": ("--max-prime", "31"),
                "61": ("--max-prime", "61", "--total-steps", "600", "--lr-hold", "500"),
            }
        },
        flags=FORMER_WEIGHT,
    ),
}


# Flags of train.py that a study gives each of its runs, beside those that its conditions differ in.
OWN_FLAGS = ("model", "seed", "run_dir", "run_name", "resume", "plan", "quiet")

FILES = ("study.md", "study.png")

CONDITIONS = sorted({name for grid in GRIDS.values() for name in grid.conditions})


@dataclass(frozen=True)
class StudyArgs(Flags):
    """The command line. Raises ArgumentError for conditions that no run can be made of."""

    output: str | None = flag(None, "folder of the study [runs/study]")
    grid: str = flag("controls", "conditions that are compared", choices=tuple(GRIDS))
    seeds: int = flag(3, "runs of each condition", least=1, most=100)
    first_seed: int = flag(0, "seed of the first of them", least=0, most=9_999)
    only: tuple[str, ...] = flag(
        (),
        "a condition of the grid; may be repeated [all of the grid]",
        choices=tuple(CONDITIONS),
        repeatable=True,
    )
    flags: str = flag("", "further flags of train.py for every run, quoted")
    from_: str | None = flag(
        None,
        "make table and figure of these logs, study.jsonl.gz of a study, and run nothing",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.conditions:
            raise ArgumentError(
                f"--only {', '.join(self.only)}: must name a condition of --grid {self.grid}"
            )
        flags = GRIDS[self.grid].conditions
        following = [one for one in self.conditions if follows(flags[one])]
        if following and "self" not in self.conditions:
            raise ArgumentError(
                f"--only {', '.join(self.only)}: must name self too, which {following[0]} follows"
            )
        if any(OTHER in flags[one] for one in following) and self.seeds < 2:
            raise ArgumentError(
                f"--seeds {self.seeds}: must be 2 or more, since a run follows one of another seed"
            )
        if self.from_ is not None:
            for name in ("seeds", "first_seed", "flags"):
                if (value := getattr(self, name)) != getattr(StudyArgs, name):
                    raise ArgumentError(
                        f"{flag_name(name)} {value}: must not be given with --from, which runs nothing"
                    )
        compared = {name for one in self.conditions for name in given_values(flags[one])}
        try:
            given = given_values(self.further)
        except ArgumentError as error:
            raise ArgumentError(f"--flags: {error}") from error
        for name in given:
            if name in OWN_FLAGS or name in compared:
                raise ArgumentError(
                    f"--flags {self.flags}: must not hold {flag_name(name)}, which the study itself "
                    f"gives its runs"
                )

    @property
    def folder(self) -> str | Path:
        return RUNS_DIR / "study" if self.output is None else self.output

    @property
    def further(self) -> list[str]:
        """The words of `flags`, as a shell reads them. Raises ArgumentError."""
        try:
            return shlex.split(self.flags)
        except ValueError as error:
            raise ArgumentError(f"must be words of a shell ({error})") from None

    @property
    def conditions(self) -> list[str]:
        """What is compared, in the order of the grid."""
        return [one for one in GRIDS[self.grid].conditions if one in self.only or not self.only]


def arguments(
    model: str,
    flags: Sequence[str],
    seeds: Sequence[int],
    number: int,
    further: Sequence[str],
    folder: Path,
) -> list[str]:
    """The command line of the run of a study in `folder` that has the seed of that number; the flags of
    the condition come last and win."""
    other = seeds[(number + 1) % len(seeds)]
    followed = {SELF: seeds[number], OTHER: other}
    deciding = [
        str(folder / "self" / f"seed{followed[word]}") if word in followed else word
        for word in flags
    ]
    return ["--model", model, "--seed", str(seeds[number]), *further, *deciding]


def follows(flags: Sequence[str]) -> bool:
    """Whether a condition needs the runs of self."""
    return SELF in flags or OTHER in flags


def is_finished(run_dir: Path, wanted: AZRArgs) -> bool:
    """Whether a run wrote its last step and its checkpoint."""
    run = FinishedRun(run_dir)
    try:
        last = run.metrics[-1]["step"]
        return last == wanted.total_steps and run.newest_checkpoint.is_dir()
    except (RunDirectoryError, IndexError, ValueError):
        return False


def conflict(run_dir: Path, argv: Sequence[str]) -> str | None:
    """Why a folder cannot be this run's: it holds something else. None if it can."""
    if not run_dir.exists() or not any(run_dir.iterdir()):
        return None
    wanted = parse_args(argv, language_of=language)
    ignored = {"run_dir", "quiet", "prompt_date", *wanted.undecided}
    try:
        found = FinishedRun(run_dir).config["args"]
    except (RunDirectoryError, ValueError, KeyError):
        return f"--output: {run_dir} must be empty or a run of this study, and is neither"
    for name, value in wanted.as_dict().items():
        if name not in ignored and found.get(name) != value:
            had = f"{flag_name(name)} {found.get(name)}"
            return f"--output: {run_dir} holds a run with {had}, not {value}"
    return None


def run(run_dir: Path, argv: Sequence[str]) -> str | None:
    """Train in a process of its own unless that is done; an error message or None."""
    if is_finished(run_dir, parse_args(argv, language_of=language)):
        return None
    command = [sys.executable, str(ROOT / "model" / "train.py"), *argv, "--quiet", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "--run-dir", str(run_dir)], env=environment, capture_output=True, text=True
    )
    said = "done" if result.returncode == 0 else "failed"
    print(f"{run_dir.parent.name}, {run_dir.name}: {said}", flush=True)
    return result.stderr.strip() if result.returncode else None


def run_all(
    grid: Grid, names: Sequence[str], seeds: Sequence[int], further: Sequence[str], output: Path
) -> list[StudyRun]:
    """Every condition of `names` with every seed. Raises ArgumentError for a folder that holds another
    run, StudyError where a run failed."""
    runs = {}
    for name in names:
        folder = output / name.replace(", ", "_").replace(" ", "_")
        for number, seed in enumerate(seeds):
            flags = grid.conditions[name]
            argv = arguments(grid.model, flags, seeds, number, [*grid.flags, *further], output)
            runs[name, seed] = folder / f"seed{seed}", argv
    conflicts = [reason for one in runs.values() if (reason := conflict(*one))]
    if conflicts:
        raise ArgumentError(conflicts[0])
    followers = {key for key in runs if follows(grid.conditions[key[0]])}
    for wave in (runs.keys() - followers, followers):  # those that follow a run come after it
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = [pool.submit(run, *runs[key]) for key in runs if key in wave]
            errors = [error for job in jobs if (error := job.result())]
        if errors:
            raise StudyError("\n".join(errors))
    return [StudyRun.of(name, FinishedRun(run_dir)) for (name, _), (run_dir, _) in runs.items()]


class StudyError(Exception):
    """A run that failed; the message is what it said."""


def tables(grid: Grid, results: Mapping[str, Sequence[StudyRun]]) -> str:
    """Markdown."""
    known = [pair for pair in grid.contrasts if set(pair) <= set(results)]
    first = arms_table(results, grid.endpoint) if grid.contrasts else controls_table(results)
    second = contrasts_table(results, known, grid.endpoint)
    commits = {run.commit for runs in results.values() for run in runs}
    minutes = (
        sum(
            row["step_time"] for runs in results.values() for run in runs for row in run.metrics[1:]
        )
        / 60
    )
    about = f"Commit {', '.join(sorted(map(str, commits)))}; {minutes:.0f} minutes of steps on one core."
    return "\n".join([first, second, about]) + "\n"


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, 1 where a run failed or its logs are damaged, 2 for a wrong flag."""
    try:
        given = parse(StudyArgs, argv, about=__doc__)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    grid = GRIDS[given.grid]
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    try:
        if given.from_ is None:
            output = output_folder(given.folder, ())
            runs = run_all(grid, given.conditions, seeds, given.further, output)
        else:
            runs = load_runs(Path(given.from_))
            output = output_folder(given.folder, FILES)
    except ArgumentError as error:
        sentence = str(error)
        print(sentence if sentence.startswith("--output") else f"--flags: {error}", file=sys.stderr)
        return 2
    except (StudyError, RunDirectoryError) as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError, TypeError) as error:
        print(f"--from {given.from_}: must be logs of a study ({error})", file=sys.stderr)
        return 2
    found = by_condition(runs)
    results = {name: found[name] for name in given.conditions if name in found}
    if not results:
        named = ", ".join(found) or "nothing"
        print(
            f"--from {given.from_}: must hold what --grid {given.grid} compares, not {named}",
            file=sys.stderr,
        )
        return 2
    if given.from_ is None:
        save_runs(runs, output / "study.jsonl.gz")
    text = tables(grid, results)
    (output / "study.md").write_text(text, encoding="utf-8")
    panels = {
        title: {name: results[name] for name in conditions if name in results}
        for title, conditions in grid.panels.items()
    }
    shown = {title: runs for title, runs in panels.items() if runs}
    watched = grid.watched if "self" in results else {}
    save_figure(shown, output / "study.png", grid.endpoint, watched, results.get("self", ()))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
