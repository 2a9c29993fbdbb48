"""A person types problems, and a trained policy answers or proposes them.

    python model/play.py runs/first
    python model/play.py runs/first/checkpoints/step_000100
    python model/play.py smollm2 --max-prime 13

Each line is a problem, `propose` with a task, an empty line for a random problem, `help` or `quit`. What
comes back is what was asked, what the model wrote, the verdict with what is right, and how likely that
text was. The renderer, the parser and the judge are those of training.
"""

import os
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from random import Random
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # runs from any folder

from utils.before_torch import interrupts, settle

settle()
if __name__ == "__main__":
    interrupts(raised=False)

from transformers.utils import logging as transformers_logging

from constants import MAXIMUM_PRIME, MINIMUM_PRIME
from custom_types import TASKS, TaskType
from model.args import DEVICE, TEMPERATURES
from model.eval.asking import FORMS, ProblemError, answer, propose, read_problem
from model.eval.evaluator import Evaluator
from model.eval.finished import load_evaluator
from model.flags import ArgumentError, Flags, flag, parse, positional, shown
from model.policy.load import PolicyError
from model.run.checkpoints import CheckpointError
from model.run.rows import RunDirectoryError
from prime_inversion import generate_problems
from utils.attention import avoid_cudnn_attention

PROMPT = "> "
REFUSALS = ArgumentError, PolicyError, CheckpointError, RunDirectoryError
HELP = f"""a problem, one of x, y and p left open, as {FORMS}
propose TASK: the model writes a problem of abduction, deduction or induction, or of any
an empty line: a random problem
help, quit (or Ctrl-D)"""


@dataclass(frozen=True)
class PlayArgs(Flags):
    """The command line. Raises ArgumentError for a value that is not allowed."""

    model: tuple[str, ...] = positional(
        "RUN", "a finished run, a checkpoint, smollm2, a hub id or a local folder"
    )
    min_prime: int | None = flag(
        None, "smallest p [the run's, or 5]", least=MINIMUM_PRIME, most=MAXIMUM_PRIME
    )
    max_prime: int | None = flag(
        None,
        "largest p [the run's, or 31, or the largest that a small model has a word for]",
        least=MINIMUM_PRIME,
        most=MAXIMUM_PRIME,
    )
    temperature: float | None = flag(
        None,
        "temperature of sampling; 0: greedy [0 for answers, the run's for proposals]",
        **TEMPERATURES,
        beside=(0,),
    )
    seed: int | None = flag(
        None, "seed of random problems and of sampling [the run's]", least=0, most=2**32 - 1
    )
    device: str = flag(**DEVICE)

    def __post_init__(self):
        super().__post_init__()
        if len(self.model) > 1:
            raise ArgumentError(f"RUN {' '.join(map(shown, self.model))}: must be one of them")

    @property
    def asking(self) -> dict[str, Any]:
        """What is given of the arguments that a model is asked with."""
        names = "min_prime", "max_prime", "seed", "device"
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


class Player:
    """Answers lines of text, one reply to each."""

    def __init__(self, evaluator: Evaluator, temperature: float | None):
        self.evaluator, self.temperature = evaluator, temperature
        self.rng = Random(f"{evaluator.args.seed}/play")

    def reply(self, line: str) -> str:
        """What is said to a line. Raises ProblemError for one that cannot be answered."""
        args = self.evaluator.args
        span = args.min_prime, args.max_prime
        first, *rest = line.split() or [""]
        if first == "help":
            return HELP
        if first == "propose":
            return str(propose(self.evaluator, self._task(rest), temperature=self.temperature))
        if first:
            problem = read_problem(line.strip(), *span)
        else:
            (problem,) = generate_problems(1, self.rng, *span)
        return str(answer(self.evaluator, problem, temperature=self.temperature or 0.0))

    def _task(self, words: Sequence[str]) -> TaskType:
        if not words:
            return self.rng.choice(TASKS)
        if len(words) > 1 or words[0] not in TASKS:
            raise ProblemError(
                f"propose {shown(' '.join(words))}: must be propose {' or '.join(TASKS)}"
            )
        return TaskType(words[0])


def play(player: Player) -> int:
    """Replies to each line of stdin, to its end or `quit`. Exit status: 0, or 130 after Ctrl-C where
    nothing was being answered."""
    prompt = PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            if prompt:
                print()
            return 0
        except KeyboardInterrupt:
            print()
            return 128 + signal.SIGINT
        if line.strip() == "quit":
            return 0
        try:
            print(player.reply(line), flush=True)
        except ProblemError as error:
            print(error, flush=True)
        except KeyboardInterrupt:
            print("stopped", flush=True)


def main(argv: Sequence[str]) -> int:
    """Exit status: that of `play`, or 2 after one sentence about what cannot be asked."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    avoid_cudnn_attention()
    for name, errors in (("stdin", "replace"), ("stdout", "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:
            print(f"{name}: must be open", file=sys.stderr)
            return 2
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)
    with suppress(ImportError):
        import readline  # noqa: F401 (a line can be edited, and earlier ones come back)
    try:
        given = parse(PlayArgs, argv, about=__doc__)
        (model,) = given.model
        evaluator = load_evaluator(model, **given.asking)
    except REFUSALS as error:
        # What is a flag elsewhere stands alone here.
        print(re.sub("^--model ", "RUN ", str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    args = evaluator.args
    try:
        print(
            f"{model}: primes {args.min_prime} to {args.max_prime}; type a problem, or help",
            flush=True,
        )
        return play(Player(evaluator, given.temperature))
    except OSError as error:  # nobody reads any more, or there is no room for what is said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the end of the process
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        print(f"stdout: {error.strerror}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    interrupts(raised=True)
    sys.exit(main(sys.argv[1:]))
