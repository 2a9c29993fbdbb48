r"""Why the curves of the program this project started from looked as they did: an experiment.

    python model/eval/collapse.py --output runs/collapse --seeds 3
    python model/eval/collapse.py --from diagrams/collapse.jsonl.gz --output pictures

Its README reported rewards that jump from -1 towards -0.5 while accuracy falls. Here a correct
trainer gets that program's defects back, one at a time and together, from the state such a run
starts in: a policy that knows answers and seldom writes them in the form that is parsed. That state
is made in two parts: self-play by the correct method, then supervised steps on the policy's own
greedy answers, whose box is left open for most problems (`--unclosed`).

Writes `collapse.md` (before and after), `collapse.jsonl` (each step of each run) and `collapse.png`;
`--from` makes the first and the last again from such logs, which may be packed by gzip.
"""

import copy
import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from utils.before_torch import interrupts, settle

settle()
if __name__ == "__main__":
    interrupts(raised=False)

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers.utils import logging as transformers_logging

from buffer.base_buff import collate
from compute.objective import aggregate_tokens, compute_azr_objective
from compute.reward import compute_r_total
from constants import RUNS_DIR
from custom_types import (
    CELLS,
    ROLES,
    TASKS,
    Example,
    MiniBatch,
    Policy,
    Problem,
    Prompt,
    Role,
    Rollout,
    Round,
    TaskType,
)
from model.args import AZRArgs
from model.engine.protocol import Scores
from model.engine.shared import SharedEngine
from model.eval.evaluator import Evaluator, evaluation_problems
from model.flags import ArgumentError, Flags, flag, parse
from model.learner import Learner, Objective
from model.policy.supervised import train_on_texts
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
from model.report.charts import Panel, curve_chart
from model.report.curves import curves
from model.report.pictures import save_picture, sized
from model.run.outputs import output_folder
from model.trainer import AZRTrainer
from utils.random_states import seeded_generator
from utils.string_formatting import PromptRenderer
from utils.tables import markdown_table
from utils.validate_by_executing import judge_solver

SETTINGS: dict[str, Any] = dict(max_prime=13, batch_size=32, n_attempts=4, minibatches=4)
FILES = "collapse.md", "collapse.png", "collapse.jsonl"
PREPARING_STEPS = 100  # of self-play, then of unlearning the form


@dataclass(frozen=True)
class CollapseArgs(Flags):
    """The command line."""

    output: str | None = flag(None, "folder of the experiment [runs/collapse]")
    seeds: int = flag(3, "runs of each trainer", least=1, most=100)
    total_steps: int = flag(100, "steps with the defect", least=1, most=10_000)
    unclosed: float = flag(
        0.8, "share of problems in whose answer the box is left open", least=0, most=1
    )
    from_: str | None = flag(
        None, "make table and figure of these logs, collapse.jsonl, and run nothing"
    )

    @property
    def folder(self) -> str | Path:
        return RUNS_DIR / "collapse" if self.output is None else self.output


# ---------------------------------------------------------------- the defects


def minimised(objective: Objective) -> Objective:
    """The objective is minimised."""

    def descent(*logprobs_and_more, **settings) -> tuple[Tensor, dict[str, Tensor]]:
        value, measured = objective(*logprobs_and_more, **settings)
        return -value, measured

    return descent


def clipped_advantages(
    new_logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, response_mask: Tensor, *,
    clip_low: float, clip_high: float, counts: Tensor, **mean,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The advantage is clipped to 1 ± ε where the ratio should be."""
    _, measured = compute_azr_objective(
        new_logprobs, old_logprobs, advantages, response_mask,
        clip_low=clip_low, clip_high=clip_high, counts=counts, **mean,
    )  # fmt: skip
    ratio, advantage = (new_logprobs - old_logprobs).exp(), advantages[:, None]
    clipped = advantage.clamp(1 - clip_low, 1 + clip_high)
    surrogate = torch.minimum(advantage * ratio, clipped * ratio)
    return aggregate_tokens(surrogate, response_mask, **mean), measured


class OtherCompletions(SharedEngine):
    """In the update, the log-probabilities are those of other completions, sampled there and then; a
    place that the other completion does not reach has 0."""

    def __init__(self, policy: Policy, renderer: PromptRenderer, seed: int):
        super().__init__(policy.model, policy.stop_ids, policy.pad_id)
        self.max_tokens = renderer.max_tokens
        self.completions_rng = seeded_generator(f"{seed}/other completions")

    def score(self, batch: MiniBatch, temperature: float, floor: float = 0.0) -> Scores:
        if not torch.is_grad_enabled():
            return super().score(batch, temperature, floor)
        others = collate(
            [[example] for example in self._completed(batch, temperature)], self.pad_id
        )
        length = batch.response_mask.shape[1]
        return Scores(
            *(
                torch.nn.functional.pad(values, (0, length))[:, :length] * batch.response_mask
                for values in super().score(others, temperature, floor)
            )
        )

    def _completed(self, batch: MiniBatch, temperature: float) -> list[Example]:
        """The prompts of a batch, in order, each with a new response."""
        examples: dict[int, Example] = {}
        prompts = prompts_of(batch)
        for role in ROLES:
            numbers = [n for n, cell in enumerate(batch.cells.tolist()) if CELLS[cell][0] is role]
            uniform = torch.rand(
                len(numbers), self.max_tokens[role], generator=self.completions_rng
            )
            if not numbers:
                continue
            responses = self.sample([prompts[n] for n in numbers], uniform, temperature)
            for n, response in zip(numbers, responses, strict=True):
                _, task = CELLS[int(batch.cells[n])]
                prompt = Prompt(role, task, ANY_PROBLEM, "", prompts[n], self.max_tokens[role])
                examples[n] = Example(Rollout.of(prompt, response, text=""), 0.0)
        return [examples[n] for n in range(len(examples))]


ANY_PROBLEM = Problem(TaskType.DEDUCTION, 2, 4, 7)  # no likelihood depends on it


def prompts_of(batch: MiniBatch) -> list[tuple[int, ...]]:
    """The prompt of each response: what its last token, which predicts the first of the response, sees."""
    time, prompts = batch.input_ids.shape[1], []
    for source in batch.sources[:, 0].tolist():
        seen = batch.attention_mask[source // time, 0, source % time]
        prompts.append(tuple(batch.input_ids[source // time][seen].tolist()))
    return prompts


class UnrelatedRewards(AZRTrainer):
    """Each answer is judged as the answer to another prompt of the batch, whatever its task; a
    proposal earns 1 minus the mean reward of answers to a problem that is not its own."""

    def rollout_phase(self) -> Round:
        played = super().rollout_phase()
        args, rng = self.args, self.proposer.drawing_rng
        others = rng.sample([item.rollout.problem for item in played.answers], len(played.answers))
        answers = []
        for item, problem in zip(played.answers, others, strict=True):
            verdict = judge_solver(item.rollout.text, problem, args.min_prime, args.max_prime)
            reward = compute_r_total(Role.SOLVER, verdict, **args.reward_settings)
            answers.append(replace(item, verdict=verdict, reward=reward))
        proposals = []
        for item in played.proposals:
            sample = rng.sample(answers, args.n_attempts)
            pay = 1 - fmean(answer.reward for answer in sample)
            proposals.append(replace(item, reward=pay if item.proposed else item.reward))
        return replace(played, answers=tuple(answers), proposals=tuple(proposals))


class Defects(NamedTuple):
    """What a trainer does wrong; by default nothing."""

    objective: Objective = compute_azr_objective
    other_completions: bool = False
    trainer: type[AZRTrainer] = AZRTrainer

    def trainer_of(
        self, policy: Policy, renderer: PromptRenderer, args: AZRArgs, accelerator: Accelerator
    ) -> AZRTrainer:
        """A trainer of the policy that has these defects."""
        others = OtherCompletions(policy, renderer, args.seed) if self.other_completions else None
        learner = Learner(policy, args, accelerator, objective=self.objective, engine=others)
        return self.trainer(policy, renderer, args, accelerator, learner=learner)


TRAINERS = {
    "correct": Defects(),
    "descent": Defects(objective=minimised(compute_azr_objective)),
    "clipped advantages": Defects(objective=clipped_advantages),
    "other completions": Defects(other_completions=True),
    "unrelated rewards": Defects(trainer=UnrelatedRewards),
    "all but descent": Defects(clipped_advantages, True, UnrelatedRewards),
    "all together": Defects(minimised(clipped_advantages), True, UnrelatedRewards),
}


# ---------------------------------------------------------------- the experiment


def prepare(args: AZRArgs, unclosed: float) -> tuple[Policy, PromptRenderer]:
    """A policy that knows answers and leaves the box open for a share `unclosed` of the problems."""
    policy = build_tiny(args.max_prime, args.seed)
    renderer = PromptRenderer.for_policy(policy, args)
    warm_start(policy, renderer, args)
    trainer = AZRTrainer(policy, renderer, args, Accelerator(cpu=True))
    for _ in range(PREPARING_STEPS):
        trainer.step()
    problems = evaluation_problems(args)
    answers = Evaluator(policy, renderer, args).solve(problems)
    number = round(unclosed * len(answers))
    chosen = set(Random(f"{args.seed}/unclosed").sample(range(len(answers)), number))
    texts = [
        (renderer.solver(a.problem), a.text.removesuffix("}") if index in chosen else a.text)
        for index, a in enumerate(answers)
    ]
    train_on_texts(policy, [texts] * PREPARING_STEPS, repeat(args.lr))
    return policy, renderer


def experiment(args: AZRArgs, unclosed: float) -> list[dict]:
    """Each trainer from the same state; a row a step, and one before the first."""
    policy, renderer = prepare(args, unclosed)
    problems, rows = evaluation_problems(args), []
    for name, defects in TRAINERS.items():
        copied = replace(policy, model=copy.deepcopy(policy.model))
        trainer = defects.trainer_of(copied, renderer, args, Accelerator(cpu=True))
        evaluator = Evaluator(copied, renderer, args)
        for step in range(args.total_steps + 1):
            metrics = trainer.step().metrics if step else {}
            row = {"trainer": name, "seed": args.seed, "step": step}
            row["accuracy"] = evaluator.accuracy(problems)["eval/accuracy"]
            for role in Role if step else ():
                for key in ("reward", "malformed_frac"):
                    values = [metrics[f"{key}/{role}_{task}"] for task in TASKS]
                    row[f"{key}/{role}"] = fmean(values)
            rows.append(row)
    return rows


SERIES = {
    "reward/solver": "mean reward of answers (plotted as the proposer's by the seed's program)",
    "malformed_frac/solver": "share of answers that cannot be parsed",
    "accuracy": "greedy accuracy",
}


def load_rows(path: Path) -> list[dict]:
    """The rows of an experiment that was run before. Raises ArgumentError."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        if {row["trainer"] for row in rows} != set(TRAINERS):
            raise ValueError("it has other trainers")
        return rows
    except (OSError, ValueError, TypeError, KeyError, EOFError) as error:
        raise ArgumentError(f"--from {path}: must be logs of this experiment ({error})") from error


def _logs(rows: Sequence[dict], trainer: str) -> list[list[dict]]:
    """The rows of a trainer from step 1 on, a list for each seed."""
    trained = [row for row in rows if row["trainer"] == trainer and row["step"]]
    seeds = sorted({row["seed"] for row in trained})
    return [[row for row in trained if row["seed"] == seed] for seed in seeds]


def table(rows: Sequence[dict]) -> str:
    """Markdown: first five and last five steps of each series, means over seeds."""
    heads = ("reward of answers", "cannot be parsed", "greedy accuracy")
    lines = []
    for name in TRAINERS:
        line = {"trainer": name}
        for head, key in zip(heads, SERIES, strict=True):
            values = np.array([[row[key] for row in log] for log in _logs(rows, name)])
            line[head] = f"{values[:, :5].mean():.2f} → {values[:, -5:].mean():.2f}"
        lines.append(line)
    return markdown_table(lines)


def figure(rows: Sequence[dict], path: Path) -> None:
    """A chart for each series, with a line for each trainer: the mean over seeds, and their range."""
    data = [row for trainer in TRAINERS for row in curves(trainer, _logs(rows, trainer), SERIES)]
    charts = []
    for key, title in SERIES.items():
        unit, span = ("reward", (-1, 1)) if key.startswith("reward") else ("share", (0, 1))
        panel = Panel(title, {title: key}, unit, span, x_title="step with the defect")
        charts.append(sized(curve_chart(panel, "steps", data), height=200))
    save_picture({"vconcat": charts}, {"steps": data}, path)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be done."""
    try:
        given = parse(CollapseArgs, argv, about=__doc__)
        rows = [] if given.from_ is None else load_rows(Path(given.from_))
        output = output_folder(given.folder, FILES if given.from_ is None else FILES[:2])
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    if given.from_ is None:
        transformers_logging.set_verbosity_error()
        for seed in range(given.seeds):
            args = AZRArgs(seed=seed, total_steps=given.total_steps, **SETTINGS)
            rows += experiment(args, given.unclosed)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (output / FILES[2]).write_text(lines, encoding="utf-8")
    text = table(rows)
    (output / FILES[0]).write_text(text, encoding="utf-8")
    figure(rows, output / FILES[1])
    print(text)
    return 0


if __name__ == "__main__":
    interrupts(raised=True)
    sys.exit(main(sys.argv[1:]))
