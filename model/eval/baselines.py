"""What is easy, what is untrained, what is perfect: the scale on which a trained policy is read.

    python model/eval/baselines.py
    python model/eval/baselines.py --model runs/first --model smollm2 --max-prime 13
    python model/eval/baselines.py --model runs/first --samples 8 --output runs/baselines

Tables of accuracy by task and band of primes, each share with its 95% Wilson interval below it, for
guessing at random, answering always 1, `tiny` before self-play, an exact solver, which must reach 1
because it checks the judge, and the models named. Every answer goes through the judge of training, as
text. The problems come from a random stream that no training uses; how many of them a run has trained
on all the same, and its accuracy on those, on the others and on what it held out, is a table of its own.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from utils.before_torch import interrupts, settle

settle()
if __name__ == "__main__":
    interrupts(raised=False)

from rich.console import Console
from transformers.utils import logging as transformers_logging

from constants import DEFAULT_SEED, MAXIMUM_PRIME, MINIMUM_PRIME
from custom_types import Policy, Problem, Role, TaskType, Verdict
from model.args import DEVICE, TEMPERATURES, AZRArgs
from model.eval.evaluator import evaluation_problems
from model.eval.finished import checkpoint_of, evaluator_of, is_trained, load_asked, trained_args
from model.eval.scores import PARTS, Scores, score_rows, tables
from model.flags import ArgumentError, Flags, flag, parse
from model.policy.device import device_kind
from model.policy.load import PolicyError
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
from model.report.pictures import save_bars
from model.run.checkpoints import CheckpointError
from model.run.finished import taught_problems
from model.run.outputs import output_folder
from model.run.rows import RunDirectoryError
from prime_inversion import primes_between
from prompts import COMPACT
from utils.attention import avoid_cudnn_attention
from utils.string_formatting import PromptRenderer, format_answer
from utils.validate_by_executing import judge_solver

EXACT = "exact solver"
FILES = "baselines.json", "baselines.png"


@dataclass(frozen=True)
class BaselineArgs(Flags):
    """The command line. Raises ArgumentError for a value that is not allowed."""

    model: tuple[str, ...] = flag(
        (),
        "a finished run, a checkpoint, smollm2, a hub id or a local folder; may be repeated",
        repeatable=True,
    )
    min_prime: int | None = flag(
        None, "smallest p [the first run's, or 5]", least=MINIMUM_PRIME, most=MAXIMUM_PRIME
    )
    max_prime: int | None = flag(
        None, "largest p [the first run's, or 31]", least=MINIMUM_PRIME, most=MAXIMUM_PRIME
    )
    num_problems: int = flag(
        512, "problems of each task; all of them where there are fewer", least=1
    )
    asked_from: int = flag(
        MINIMUM_PRIME,
        "smallest p of the problems that are asked; prompts name the range from --min-prime all the same",
        least=MINIMUM_PRIME,
        most=MAXIMUM_PRIME,
    )
    held_out: float = flag(
        0.0,
        "ask those problems alone that a run with this --held-out never trains on; 0: ask all",
        least=0,
        most=0.9,
    )
    samples: int = flag(1, "k, answers to each problem, for pass@1 to pass@k", least=1)
    temperature: float | None = flag(
        None,
        "temperature of sampling; 0: greedy [0 for one sample, 1 for more]",
        **TEMPERATURES,
        beside=(0,),
    )
    seed: int = flag(DEFAULT_SEED, "seed of problems and samples", least=0, most=2**32 - 1)
    device: str = flag(**DEVICE)
    output: str | None = flag(None, "folder for baselines.json and baselines.png")

    def __post_init__(self):
        super().__post_init__()
        if self.samples > 1 and self.temperature == 0:
            raise ArgumentError(
                f"--samples {self.samples} --temperature 0: must have a temperature above 0, or all "
                f"samples are the same"
            )

    @property
    def sampling_temperature(self) -> float:
        """Greedy where there is one answer, unless it is given."""
        return float(self.samples > 1) if self.temperature is None else self.temperature


def run_args(model: str) -> AZRArgs:
    """The arguments of a finished run or a checkpoint. Raises ArgumentError, or CheckpointError."""
    try:
        return trained_args(model)
    except RunDirectoryError as error:
        raise ArgumentError(f"--model {model}: must be a run of this version ({error})") from error


def trained_on(model: str) -> set[Problem]:
    """The problems that a finished run or a checkpoint has trained on answers to. Raises ArgumentError, or
    CheckpointError."""
    try:
        return taught_problems(checkpoint_of(model))
    except RunDirectoryError as error:
        raise ArgumentError(
            f"--model {model}: must have a checkpoint of this version ({error})"
        ) from error


def problem_args(given: BaselineArgs) -> AZRArgs:
    """The problems that are asked, as the arguments of a run of `tiny`. Raises ArgumentError."""
    first = next((run_args(model) for model in given.model if is_trained(model)), AZRArgs())
    return AZRArgs(
        min_prime=first.min_prime if given.min_prime is None else given.min_prime,
        max_prime=first.max_prime if given.max_prime is None else given.max_prime,
        eval_problems=given.num_problems,
        held_out=given.held_out,
        seed=given.seed,
        device=given.device,
    )


def problems_asked(given: BaselineArgs, args: AZRArgs) -> list[Problem]:
    """Each problem as often as it is asked. Raises ArgumentError where there is none."""
    chosen = [p for p in evaluation_problems(args) if p.p >= given.asked_from]
    if not chosen:
        raise ArgumentError(
            f"--asked-from {given.asked_from}: must leave some of the problems with primes "
            f"{args.min_prime} to {args.max_prime}"
        )
    return [problem for problem in chosen for _ in range(given.samples)]


def right(verdicts: Iterable[tuple[Problem, Verdict]]) -> Counter[Problem]:
    """How many of the answers to each problem are right."""
    scores: Counter[Problem] = Counter()
    for problem, verdict in verdicts:
        scores[problem] += verdict is Verdict.CORRECT
    return scores


def text_scores(texts: Iterable[str], asked: Sequence[Problem], args: AZRArgs) -> Scores:
    """`right` of texts, one to each of `asked`."""
    span = args.min_prime, args.max_prime
    return right((p, judge_solver(text, p, *span)) for text, p in zip(texts, asked, strict=True))


def guess(problem: Problem, rng: Random, args: AZRArgs) -> str:
    """A legal answer drawn uniformly: a residue 1..p-1, or a prime of the range."""
    if problem.task is TaskType.INDUCTION:
        return format_answer(rng.choice(primes_between(args.min_prime, args.max_prime)))
    return format_answer(rng.randint(1, problem.p - 1))


def policy_scores(
    policy: Policy, args: AZRArgs, asked: Sequence[Problem], temperature: float
) -> Scores:
    """`right` of a policy's answers, one to each of `asked`. Raises PolicyError for one from elsewhere
    that cannot be asked."""
    evaluator = evaluator_of(policy, args, roles=(Role.SOLVER,))
    return right(evaluator.verdicts(asked, temperature=temperature))


def baseline_scores(
    args: AZRArgs, asked: Sequence[Problem], temperature: float
) -> dict[str, Scores]:
    """The baselines by name. Takes seconds: it warm-starts one `tiny`."""
    rng = Random(f"{args.seed}/guesses")
    scores = {
        "guess at random": text_scores(
            [guess(problem, rng, args) for problem in asked], asked, args
        ),
        "always 1": text_scores([format_answer(1)] * len(asked), asked, args),
    }
    policy = build_tiny(args.max_prime, args.seed)
    scores["tiny, random weights"] = policy_scores(policy, args, asked, temperature)
    warm_start(policy, PromptRenderer.for_policy(policy, args), args)
    scores["tiny, format-only warm start"] = policy_scores(policy, args, asked, temperature)
    exact = [format_answer(problem.solution) for problem in asked]
    return scores | {EXACT: text_scores(exact, asked, args)}


def model_scores(model: str, args: AZRArgs, asked: Sequence[Problem], temperature: float) -> Scores:
    """Of a finished run's newest checkpoint, of a checkpoint, or of a model as it is. Raises PolicyError,
    ArgumentError or RunDirectoryError."""
    policy, its_args = load_asked(
        model, min_prime=args.min_prime, max_prime=args.max_prime,
        eval_problems=args.eval_problems, seed=args.seed, device=args.device,
        held_out=0.0,  # all are asked, those too
    )  # fmt: skip
    return policy_scores(policy, its_args, asked, temperature)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0; 1 where the exact solver was not right, which the judge must then be blamed for;
    or 2 after one sentence on stderr about what cannot be done."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    avoid_cudnn_attention()
    try:
        given = parse(BaselineArgs, argv, about=__doc__)
        device_kind(given.device, COMPACT.name)  # before any model loads
        args = problem_args(given)
        output = None if given.output is None else output_folder(given.output, FILES)
        seen = {model: trained_on(model) for model in given.model if is_trained(model)}
        asked = problems_asked(given, args)
        how = args, asked, given.sampling_temperature
        scores = {model: model_scores(model, *how) for model in given.model}
        rows = []
        for name, found in (baseline_scores(*how) | scores).items():
            held_out = run_args(name).held_out if name in seen else 0.0
            rows += score_rows(name, found, given.samples, args, seen.get(name), held_out)
    except (ArgumentError, PolicyError, CheckpointError, RunDirectoryError) as error:
        print(error, file=sys.stderr)
        return 2
    drawn = (
        f"temperature {given.sampling_temperature:g}" if given.sampling_temperature else "greedy"
    )
    print(
        f"accuracy with 95% Wilson intervals, {drawn}, primes {args.min_prime} to {args.max_prime}, "
        f"seed {args.seed}"
    )
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False)
    for table in tables(rows, given.samples):
        console.print(table)
    if output is not None:
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        (output / FILES[0]).write_text(text, encoding="utf-8")
        save_bars([row for row in rows if row["band"] not in PARTS], output / FILES[1])
        print(f"{output / FILES[0]} and {output / FILES[1]}")
    if any(row["accuracy"] != 1 for row in rows if row["policy"] == EXACT and row["n"]):
        print("the exact solver must be right everywhere: the judge is wrong", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    interrupts(raised=True)
    sys.exit(main(sys.argv[1:]))
