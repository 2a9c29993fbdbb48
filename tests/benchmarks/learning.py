"""What is learned from the same problems: this program, with two ways to compare rewards, beside TRL's GRPO
and RLOO.

    python tests/benchmarks/learning.py --tune --jobs 2 --output tuning.jsonl
    python tests/benchmarks/learning.py --output diagrams/learning.jsonl --picture diagrams/learning.png
    python tests/benchmarks/learning.py --from diagrams/learning.jsonl --picture diagrams/learning.png

No proposals: each step has the same 96 problems with primes to 17, drawn uniformly with the step's seed, 8
completions of each, and the rewards of training. All begin with the same `tiny` after the same warm
start, sample at temperature 1 and take Adam steps without decay. Every run is a process of one thread.
Greedy accuracy on all problems is measured every 10 steps; seconds are those of training alone.

Each trainer gets the setting that did best for it among the same number tried, on seeds 100 and 101,
by the area under its accuracy over completions (`--tune`); results are of seeds 0 to 4.
"""

import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from random import Random
from statistics import fmean

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from throughput import last_line

from constants import TINY_MODEL
from custom_types import TASKS, Policy, Problem
from model.args import AZRArgs
from model.eval.evaluator import Evaluator, evaluation_problems
from model.flags import ArgumentError, Flags, flag, parse
from model.policy.load import load_policy
from model.policy.warm_start import warm_start
from model.report.charts import Panel, curve_chart
from model.report.curves import curves
from model.report.pictures import save_picture, sized
from model.run.outputs import PICTURE, output_file
from model.trainer import AZRTrainer
from prime_inversion import generate_of_each_task
from utils.environments.environment import Environment
from utils.environments.for_trl import solver_dataset, solver_reward
from utils.files import replace_text
from utils.string_formatting import PromptRenderer
from utils.tables import markdown_table

TRL = 'trl==1.16.0 "datasets<5"'
PROBLEMS, ATTEMPTS, STEPS, EVERY = 32, 8, 120, 10  # problems are of each task
MAX_PRIME = 17  # a range that this program, on seed 100, learns within these steps
SEEDS, TUNING_SEEDS = range(5), (100, 101)
NAMES = {
    "ours": "this program",
    "ours_grpo": "this program, --advantage grpo",
    "grpo": "TRL, GRPO",
    "rloo": "TRL, RLOO",
}
TRAINERS = tuple(NAMES)
OURS: dict[str, dict] = {"ours": {}, "ours_grpo": dict(advantage="grpo")}  # flags for all settings
KEY = "eval/accuracy"
MARK = '{"trainer": '  # how a line of --output begins

# What is tried: learning rates, optimizer steps for each round of completions, and a second kind of setting
# that a trainer has: the weight of an entropy bonus, or how advantages are scaled.
RATES, UPDATES = (3e-4, 6e-4, 1.25e-3, 2.5e-3), (1, 4, 16, 48)
BONUS = [dict(entropy_coef=0.1), dict(entropy_coef=0.0)]
OTHERS: dict[str, Sequence[dict]] = {
    "ours": BONUS,
    "ours_grpo": BONUS,
    "grpo": BONUS,
    "rloo": [dict(normalize_advantages=True), dict(normalize_advantages=False)],
}


@dataclass(frozen=True)
class Setting:
    """A learning rate, optimizer steps a round, and one more."""

    lr: float
    updates: int
    other: dict


@dataclass(frozen=True)
class LearningArgs(Flags):
    """The command line; the last flags are for the processes that this one starts."""

    tune: bool = flag(False, "try settings on the seeds for tuning instead of comparing the best")
    from_: str | None = flag(None, "file of an earlier comparison: draw it, and train nothing")
    tuned: str = flag(
        str(TESTS.parent / "diagrams" / "learning_tuning.jsonl.gz"),
        "file of --tune: who does best with what",
    )
    jobs: int = flag(
        1, "runs at once, one core each; seconds are those of a machine so busy", least=1
    )
    output: str | None = flag(
        None, "file for a line of JSON of every run; runs that are in it are not made again"
    )
    picture: str | None = flag(None, "file for the curves, PNG")
    run: str | None = flag(None, "one run, as JSON, and its curve as JSON")


# ---------------------------------------------------------------- one run


class GivenProblems(AZRTrainer):
    """Whose solver is asked, and trained on, what it is given, and nothing else."""

    def __init__(self, *args, problems: Sequence[Sequence[Problem]], **kwargs):
        super().__init__(*args, **kwargs)
        self.given = problems

    def _refill(self, taught: Sequence[Problem]) -> list[Problem]:
        return [one for one in self.given[self.steps - 1] for _ in range(ATTEMPTS)]


class Curve:
    """Accuracy over completions, tokens and seconds of training, evaluations not among them."""

    def __init__(self, policy: Policy, renderer: PromptRenderer, args: AZRArgs):
        self.evaluator, self.problems = Evaluator(policy, renderer, args), evaluation_problems(args)
        self.rows: list[dict] = []
        self.spent, self.tokens, self.since = 0.0, 0, time.perf_counter()

    def step(self, number: int, tokens: int) -> None:
        """A step is over, 0 before training. tokens: of its completions."""
        self.spent += time.perf_counter() - self.since if number else 0.0
        self.tokens += tokens
        if number % EVERY == 0:
            self.rows.append({
                "step": number,
                "completions": number * len(TASKS) * PROBLEMS * ATTEMPTS,
                "tokens": self.tokens,
                "seconds": self.spent,
                **self.evaluator.accuracy(self.problems),
            })  # fmt: skip
        self.since = time.perf_counter()


def ours(start, problems: Sequence[Sequence[Problem]], setting: Setting, **chosen) -> list[dict]:
    from accelerate import Accelerator

    policy, renderer, args = start
    args = replace(args, lr=setting.lr, minibatches=setting.updates, **setting.other, **chosen)
    trainer = GivenProblems(policy, renderer, args, Accelerator(cpu=True), problems=problems)
    curve = Curve(policy, renderer, args)
    curve.step(0, 0)
    for number in range(1, len(problems) + 1):
        done = trainer.step()
        curve.step(number, sum(len(one.response_ids) for one in done.played.completions))
    return curve.rows


def trl(kind: str, start, problems: Sequence[Sequence[Problem]], setting: Setting) -> list[dict]:
    """TRL's GRPOTrainer or RLOOTrainer."""
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    policy, renderer, args = start
    environment = Environment(
        args.min_prime, args.max_prime, language=policy.prompts.name,
        max_answer_tokens=args.max_answer_tokens,
    )  # fmt: skip
    asked = solver_dataset([one for step in problems for one in step], environment)
    # tiny has no chat template: it reads the text.
    asked = asked.map(lambda row: {"prompt": row["prompt"][0]["content"]})
    pay, tokens = solver_reward(environment, policy.stop_ids), [0]

    def reward(completion_ids, **row):
        tokens[0] += sum(map(len, completion_ids))
        return pay(completion_ids=completion_ids, **row)

    class Watch(TrainerCallback):
        def on_train_begin(self, *_, **__):
            curve.step(0, 0)

        def on_step_end(self, arguments, state, *_, **__):
            if state.global_step % setting.updates == 0:
                curve.step(state.global_step // setting.updates, tokens[0])
                tokens[0] = 0

    rows = len(TASKS) * PROBLEMS * ATTEMPTS
    with tempfile.TemporaryDirectory() as folder:
        shared = dict(
            output_dir=folder, max_steps=len(problems) * setting.updates,
            per_device_train_batch_size=rows // setting.updates, gradient_accumulation_steps=1,
            steps_per_generation=setting.updates, num_generations=ATTEMPTS,
            max_completion_length=args.max_answer_tokens, shuffle_dataset=False,
            temperature=1.0, top_p=1.0, top_k=0, beta=0.0, epsilon=args.clip_low,
            learning_rate=setting.lr, lr_scheduler_type="constant_with_warmup",
            warmup_steps=args.lr_warmup * setting.updates, optim="adamw_torch_fused",
            adam_beta2=args.adam_beta2, weight_decay=0.0, max_grad_norm=args.max_grad_norm,
            gradient_checkpointing=False, use_cpu=True, bf16=False, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=args.seed, **setting.other,
        )  # fmt: skip
        config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[
            kind
        ]
        made = trainer(
            policy.model, reward, args=config(**shared),
            train_dataset=asked, processing_class=policy.tokenizer, callbacks=[Watch()],
        )  # fmt: skip
        curve = Curve(replace(policy, model=made.model), renderer, args)
        made.train()
    return curve.rows


def one_run(trainer: str, seed: int, setting: Setting, steps: int = STEPS) -> list[dict]:
    """The curve of a trainer with a setting. The problems and the warm start are the seed's."""
    args = AZRArgs(
        model=TINY_MODEL, seed=seed, max_prime=MAX_PRIME, proposer="none", refill="uniform",
        batch_size=PROBLEMS, n_attempts=ATTEMPTS, lr_hold=10**6,
    )  # fmt: skip
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    warm_start(policy, renderer, args)
    rng, span = Random(f"{seed}/given problems"), (args.min_prime, args.max_prime)
    problems = [generate_of_each_task(PROBLEMS, rng, *span) for _ in range(steps)]
    start = policy, renderer, args
    if trainer in OURS:
        return ours(start, problems, setting, **OURS[trainer])
    return trl(trainer, start, problems, setting)


# ---------------------------------------------------------------- all of them


def area(curve: Sequence[dict]) -> float:
    """Under the accuracy over completions, as a mean: trapezoids between the evaluations."""
    pairs = list(zip(curve, curve[1:], strict=False))
    whole = curve[-1]["completions"] - curve[0]["completions"]
    return (
        sum((a[KEY] + b[KEY]) / 2 * (b["completions"] - a["completions"]) for a, b in pairs) / whole
    )


def grid(trainer: str) -> list[Setting]:
    return [Setting(*one) for one in product(RATES, UPDATES, OTHERS[trainer])]


def best_settings(runs: Sequence[dict]) -> dict[str, Setting]:
    """Of each trainer the setting with the largest mean area over the seeds for tuning."""
    best = {}
    for trainer in TRAINERS:
        areas: dict[str, list[float]] = {}
        for run in runs:
            if run["trainer"] == trainer:
                areas.setdefault(json.dumps(run["setting"]), []).append(area(run["curve"]))
        best[trainer] = Setting(**json.loads(max(areas, key=lambda name: fmean(areas[name]))))
    return best


def of_best_settings(runs: Sequence[dict]) -> list[dict]:
    best = best_settings(runs)
    return [run for run in runs if Setting(**run["setting"]) == best[run["trainer"]]]


def wanted(trainer: str, seed: int, setting: Setting) -> str:
    """A run by what it is of, as JSON."""
    return json.dumps({"trainer": trainer, "seed": seed, "setting": asdict(setting)})


def in_a_process(asked: str) -> dict:
    """The wanted run, in a process of its own. Raises SystemExit with what it said, if it fails."""
    return {**json.loads(asked), "curve": json.loads(last_line(__file__, "--run", asked))}


def summary(runs: Sequence[dict]) -> str:
    """A line for each trainer: its setting, and means over the seeds with the least and the most."""
    rows = []
    for trainer in TRAINERS:
        own = [run for run in runs if run["trainer"] == trainer]
        if not own:
            continue
        setting = own[0]["setting"]
        columns: dict[str, Callable[[list[dict]], float]] = {
            "area": area,
            "last accuracy": lambda curve: curve[-1][KEY],
            "seconds": lambda curve: curve[-1]["seconds"],
            "tokens, thousands": lambda curve: curve[-1]["tokens"] / 1000,
        }
        other = ", ".join(f"{name} {value}" for name, value in setting["other"].items())
        rows.append({
            "trainer": NAMES[trainer], "seeds": str(len(own)), "learning rate": f"{setting['lr']:g}",
            "updates a round": str(setting["updates"]), "other": other,
            **{name: _spread([of(run["curve"]) for run in own]) for name, of in columns.items()},
        })  # fmt: skip
    return markdown_table(rows)


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def draw(runs: Sequence[dict], file: Path) -> None:
    """Accuracy against completions and against seconds: means over the seeds, and their range. Seconds are
    the mean over the seeds at each step."""
    charts, data = [], {}
    for x, title in (("completions", "completions"), ("seconds", "seconds of training")):
        data[x] = []
        for trainer in TRAINERS:
            own = [run["curve"] for run in runs if run["trainer"] == trainer]
            at = {rows[0]["step"]: fmean(row[x] for row in rows) for rows in zip(*own, strict=True)}
            found = curves(NAMES[trainer], own, [KEY]) if own else []
            data[x] += [row | {x: at[row["step"]]} for row in found]
        panel = Panel(
            f"by {title}", {"accuracy": KEY}, "greedy accuracy, mean of the tasks", (0, 1),
            levels={"perfect": 1}, x=x, x_title=title,
        )  # fmt: skip
        charts.append(sized(curve_chart(panel, x, data[x])))
    save_picture({"hconcat": charts}, data, file)


def main(argv: list[str]) -> int:
    try:
        args = parse(LearningArgs, argv, about=__doc__)
        if args.run is not None:
            asked = json.loads(args.run)
            setting = Setting(**asked["setting"])
            print("\n" + json.dumps(one_run(asked["trainer"], asked["seed"], setting)))
            return 0
        if args.from_ is None and not (find_spec("trl") and find_spec("datasets")):
            raise ArgumentError(f"TRL must be installed for this comparison; pip install {TRL}")
        output = None if args.output is None else output_file(args.output, MARK)
        picture = None if args.picture is None else output_file(args.picture, PICTURE)
        runs = _runs(args, output)
    except (ArgumentError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(summary(of_best_settings(runs) if args.tune else runs))
    if picture is not None:
        draw(runs, picture)
    return 0


def _runs(args: LearningArgs, output: Path | None) -> list[dict]:
    """Of an earlier comparison, or made here."""
    if args.from_ is not None:
        return read("--from", args.from_)
    if args.tune:
        plan = [(t, seed, one) for t in TRAINERS for seed in TUNING_SEEDS for one in grid(t)]
    else:
        best = best_settings(read("--tuned", args.tuned))
        plan = [(trainer, seed, best[trainer]) for seed in SEEDS for trainer in TRAINERS]
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    names = [wanted(*one) for one in plan]
    before = read("--output", output) if output is not None and output.exists() else []
    made = {wanted(run["trainer"], run["seed"], Setting(**run["setting"])): run for run in before}
    made = {name: made[name] for name in names if name in made}
    with ThreadPoolExecutor(args.jobs) as pool:
        found = pool.map(lambda name: made.get(name) or in_a_process(name), names)
        for name, run in zip(names, found, strict=True):
            made[name] = run
            print(f"{name}: area {area(run['curve']):.3f}", flush=True)
            if output is not None:  # whole at any moment, whenever this is stopped
                replace_text(output, "\n".join(map(json.dumps, made.values())))
    return list(made.values())


def read(by: str, file: str | Path) -> list[dict]:
    """The runs in the file that the flag `by` names, which may be packed by gzip. Raises ArgumentError."""
    try:
        content = Path(file).read_bytes()
        content = gzip.decompress(content) if Path(file).suffix == ".gz" else content
        runs = [json.loads(line) for line in content.decode().splitlines()]
        if not runs or {run["trainer"] for run in runs} - set(TRAINERS):
            raise ValueError("it has none, or another trainer's")
        return runs
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise ArgumentError(f"{by} {file}: must hold runs of this comparison ({error})") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
