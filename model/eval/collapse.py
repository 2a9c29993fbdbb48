r"""Why the curves of the program this project started from looked as they did: an experiment.

    python model/eval/collapse.py --output runs/collapse --seeds 3

Its README reported rewards that jump from -1 towards -0.5 while accuracy falls. Here a correct
trainer gets that program's defects back, one at a time and together, from the state such a run
starts in: a policy that knows answers and seldom writes them in the form that is parsed. That state
is made in two parts: self-play by the correct method, then supervised steps on the policy's own
greedy answers, whose box is left open for most problems (`--unclosed`).

Writes `collapse.md` (before and after), `collapse.jsonl` (each step of each run) and `collapse.png`.
"""

import copy
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # runs from any folder

from utils.threads import spare_neighbours

spare_neighbours()  # before torch loads

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from accelerate import Accelerator
from transformers.utils import logging as transformers_logging

from buffer.base_buff import microbatches
from compute.objective import aggregate_tokens
from constants import RUNS_DIR
from custom_types import TASKS, Example, MiniBatch, Policy, Prompt, Role, Round
from model.args import AZRArgs
from model.eval.evaluator import Evaluator, evaluation_problems
from model.flags import ArgumentError, Flags, flag, parse
from model.policy.load import build_tiny
from model.policy.warm_start import train_on_texts, warm_start
from model.run.outputs import output_folder
from model.trainer import AZRTrainer
from utils.string_formatting import PromptRenderer
from utils.tables import markdown_table
from utils.validate_by_executing import judge_solver

SETTINGS = dict(max_prime=13, batch_size=32, n_attempts=4, minibatches=4)
FILES = "collapse.md", "collapse.jsonl", "collapse.png"
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

    @property
    def folder(self) -> Path:
        return RUNS_DIR / "collapse" if self.output is None else Path(self.output)


# ---------------------------------------------------------------- the defects


class Descent(AZRTrainer):
    """The objective is minimised."""

    def _objective(self, *args, **mean_over):
        objective, extra = super()._objective(*args, **mean_over)
        return -objective, extra


class ClippedAdvantages(AZRTrainer):
    """The advantage is clipped to 1 ± ε where the ratio should be."""

    def _objective(self, logprobs, batch, **mean_over):
        _, extra = super()._objective(logprobs, batch, **mean_over)
        ratio = (logprobs - batch.old_logprobs).exp()
        advantage = batch.advantages[:, None]
        clipped = advantage.clamp(1 - self.args.clip_low, 1 + self.args.clip_high)
        surrogate = torch.minimum(advantage * ratio, clipped * ratio)
        return aggregate_tokens(surrogate, batch.response_mask, **mean_over), extra


class OtherCompletions(AZRTrainer):
    """The new log-probabilities are those of other completions, sampled at the update."""

    def learning_phase(self, played: Round) -> dict[str, float]:
        self.stored = []  # of each minibatch to come, in the order of its rows
        return super().learning_phase(played)

    def _packed(self, examples: Sequence[Example]) -> list[MiniBatch]:
        parts = microbatches(examples, self.args.microbatch_tokens)
        self.stored.append([example for part in parts for row in part for example in row])
        return super()._packed(examples)

    def _update(self, parts: Sequence[MiniBatch], denominator: float, sampling=None):
        logprobs = [row for part in parts for row in part.old_logprobs.tolist()]
        stored = list(zip(self.stored.pop(0), logprobs, strict=True))
        others = []
        for role in Role:
            own = [(example, old) for example, old in stored if example.rollout.role is role]
            limit = self.renderer.max_tokens[role]
            rows = [example.rollout for example, _ in own]
            prompts = [Prompt(r.role, r.task, r.problem, "", r.prompt_ids, limit) for r in rows]
            for (example, old), fresh in zip(own, self._rollout(self.policy, prompts), strict=True):
                length = len(fresh.response_ids)
                old = (*old, *[0.0] * length)[:length]
                others.append(replace(example, rollout=replace(fresh, old_logprobs=old)))
        return super()._update(super()._packed(others), denominator)


class UnrelatedRewards(AZRTrainer):
    """Each answer is judged as the answer to another prompt of the batch, whatever its task; a
    proposal earns 1 minus the mean reward of answers to a problem that is not its own."""

    def rollout_phase(self) -> Round:
        played = super().rollout_phase()
        span, rng = (self.args.min_prime, self.args.max_prime), self.drawing
        others = rng.sample([item.rollout.problem for item in played.answers], len(played.answers))
        answers = []
        for item, problem in zip(played.answers, others, strict=True):
            verdict = judge_solver(item.rollout.text, problem, *span)
            answers.append(self._scored(item.rollout, verdict))
        proposals = []
        for item, problem in played.proposals:
            sample = rng.sample(answers, self.args.n_attempts)
            pay = 1 - fmean(answer.reward for answer in sample)
            proposals.append((replace(item, reward=pay if problem else item.reward), problem))
        return replace(played, answers=tuple(answers), proposals=tuple(proposals))


class AllTogether(Descent, ClippedAdvantages, OtherCompletions, UnrelatedRewards):
    """Every defect that reaches the gradient."""


class AllButDescent(ClippedAdvantages, OtherCompletions, UnrelatedRewards):
    """The same, climbing."""


TRAINERS = {
    "correct": AZRTrainer,
    "descent": Descent,
    "clipped advantages": ClippedAdvantages,
    "other completions": OtherCompletions,
    "unrelated rewards": UnrelatedRewards,
    "all but descent": AllButDescent,
    "all together": AllTogether,
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
    train_on_texts(policy, [texts] * PREPARING_STEPS, args.lr)
    return policy, renderer


def experiment(args: AZRArgs, unclosed: float) -> list[dict]:
    """Each trainer from the same state; a row a step, and one before the first."""
    policy, renderer = prepare(args, unclosed)
    problems, rows = evaluation_problems(args), []
    for name, trainer_class in TRAINERS.items():
        own = replace(policy, model=copy.deepcopy(policy.model))
        trainer = trainer_class(own, renderer, args, Accelerator(cpu=True))
        evaluator = Evaluator(own, renderer, args)
        for step in range(args.total_steps + 1):
            metrics = trainer.step() if step else {}
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


def by_seed(rows: Sequence[dict], trainer: str, key: str) -> np.ndarray:
    """(seeds, steps) values of a series that has one from step 1 on."""
    own = [row for row in rows if row["trainer"] == trainer and row["step"]]
    seeds = sorted({row["seed"] for row in own})
    return np.array([[row[key] for row in own if row["seed"] == seed] for seed in seeds])


def table(rows: Sequence[dict]) -> str:
    """Markdown: first five and last five steps of each series, means over seeds."""
    heads = ("reward of answers", "cannot be parsed", "greedy accuracy")
    lines = []
    for name in TRAINERS:
        line = {"trainer": name}
        for head, key in zip(heads, SERIES, strict=True):
            values = by_seed(rows, name, key)
            line[head] = f"{values[:, :5].mean():.2f} → {values[:, -5:].mean():.2f}"
        lines.append(line)
    return markdown_table(lines)


def figure(rows: Sequence[dict], path: Path) -> None:
    """One panel a series, one line a trainer: means over seeds, thin lines for seeds."""
    image, grid = plt.subplots(
        len(SERIES), 1, figsize=(8, 11), dpi=120, layout="constrained", sharex=True,
        facecolor="white",
    )  # fmt: skip
    for (key, title), axes in zip(SERIES.items(), grid, strict=True):
        for name, colour in zip(TRAINERS, plt.get_cmap("tab10").colors, strict=False):
            values = by_seed(rows, name, key)
            steps = range(1, values.shape[1] + 1)
            for line in values:
                axes.plot(steps, line, color=colour, linewidth=0.4, alpha=0.4)
            axes.plot(steps, values.mean(0), color=colour, linewidth=2, label=name)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=9, ncols=2)
    grid[-1].set_xlabel("step with the defect")
    image.savefig(path)
    plt.close(image)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 2 after one sentence on stderr about what cannot be done."""
    try:
        given = parse(CollapseArgs, argv, about=__doc__)
        output = output_folder(given.folder, FILES)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    transformers_logging.set_verbosity_error()
    rows = []
    for seed in range(given.seeds):
        args = AZRArgs(seed=seed, total_steps=given.total_steps, **SETTINGS)
        rows += experiment(args, given.unclosed)
    lines = (json.dumps(row) + "\n" for row in rows)
    (output / FILES[1]).write_text("".join(lines), encoding="utf-8")
    text = table(rows)
    (output / FILES[0]).write_text(text, encoding="utf-8")
    figure(rows, output / FILES[2])
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
