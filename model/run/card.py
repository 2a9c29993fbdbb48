"""The model card of a checkpoint, `README.md` in its folder: what Hugging Face's hub shows of it. It says
the same of a run that was interrupted and of one that was not.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from constants import EMBEDDED_MODELS, REASONER_MODEL, SMOLLM2_HUB_ID, SMOLLM2_MODEL
from custom_types import TASKS, Policy, Problem, TaskType
from model.args import CHANGEABLE, AZRArgs
from model.flags import flag_name
from model.presets import is_small, preset
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer

CARD = "README.md"
HUB = "https://huggingface.co"
PAPER = "https://arxiv.org/abs/2505.03335"
LIBRARIES = "torch", "transformers"

Counts = Mapping[
    str, tuple[int, int]
]  # by task: how many problems were answered right, of how many


def hub_id(model: str) -> str | None:
    """The name on the hub of what a value of `--model` is; None for what the program builds itself and for
    a local folder."""
    if model in EMBEDDED_MODELS or Path(model).is_dir():
        return None
    if model == SMOLLM2_MODEL:
        return SMOLLM2_HUB_ID
    try:
        validate_repo_id(model)
    except HFValidationError:
        return None
    return model


def counts(evaluation: Mapping[str, Sequence]) -> Counts:
    """Of a row of evaluations.jsonl, for the tasks that it has problems of."""
    found = {str(task): [item[-1] for item in evaluation[task]] for task in TASKS}
    return {task: (sum(right), len(right)) for task, right in found.items() if right}


@dataclass(frozen=True)
class Card:
    """What a card says of a run at any of its steps. base_model: as `hub_id` gives it. prompt: that a
    problem is put to the solver with."""

    args: AZRArgs
    language: str
    base_model: str | None
    prompt: str
    problem: Problem
    git_commit: str | None

    @classmethod
    def of(
        cls, policy: Policy, args: AZRArgs, base_model: str | None, git_commit: str | None
    ) -> "Card":
        """Of a run's policy. It shows the first problem with the largest prime."""
        problem = all_problems(TaskType.DEDUCTION, args.min_prime, args.max_prime)[-1]
        ids = PromptRenderer.for_policy(policy, args).solver(problem).ids
        shown = policy.tokenizer.decode(ids)
        return cls(args, policy.prompts.name, base_model, shown, problem, git_commit)

    @property
    def model(self) -> str:
        """The name of what was trained; of a local folder its last part alone."""
        args = self.args
        own = args.model in EMBEDDED_MODELS or self.base_model is not None
        return args.model if own else Path(args.model).name

    def command(self, step: int) -> str:
        """The command line of a run that ends at this step. Left out are what its preset has, and what may
        change when a run is resumed."""
        by_preset = AZRArgs(**preset(self.language), model=self.args.model)
        words = ["python", "model/train.py", "--model", self.model, "--total-steps", str(step)]
        for item in fields(AZRArgs):
            value, flag = getattr(self.args, item.name), flag_name(item.name)
            is_said = item.name == "model" or item.name in CHANGEABLE
            is_said |= item.name == "prompt_date" and is_small(self.language)  # shown to nobody
            if is_said or value == getattr(by_preset, item.name):
                continue
            if isinstance(value, bool):
                words.append(flag if value else flag.replace("--", "--no-", 1))
            else:
                words += [flag, str(value)]
        return shlex.join(words)

    def front_matter(self, evaluated: Counts | None) -> ModelCardData:
        """What the hub reads."""
        name = f"{self.model.rpartition('/')[-1]}-prime-inversion"
        kept: dict = dict(license="mit")
        if not is_small(self.language):
            kept = dict(license="other", license_name="that-of-the-base-model")
            if self.base_model is not None:
                kept |= dict(base_model=self.base_model, license_link=f"{HUB}/{self.base_model}")
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type="prime-inversion",
                dataset_name=f"x * y ≡ 1 (mod p), primes {self._span}",
                dataset_config=f"{task}, {n} problems",
                metric_type="accuracy",
                metric_value=round(right / n, 4),
            )
            for task, (right, n) in (evaluated or {}).items()
        ]
        return ModelCardData(
            **kept,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["absolute-zero", "self-play", "reinforcement-learning", "prime-inversion"],
            model_name=name if results else None,
            eval_results=results or None,
        )

    def text(self, step: int, evaluated_at: int | None, evaluated: Counts | None) -> str:
        """The card after a step. evaluated: of the last evaluation, which was at step `evaluated_at`."""
        args = self.args
        versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES)
        commit = self.git_commit or "unknown"
        held_out = f", {args.held_out:g} of the problems held out" if args.held_out else ""
        return f"""---
{self.front_matter(evaluated).to_yaml()}
---

# {self.model} after {step} steps of self-play on prime inversion

A language model that wrote problems about `x * y ≡ 1 (mod p)`, solved them, and learned from a verifier's verdicts
alone ([Absolute Zero]({PAPER})).

## Training

- began as: {self._beginning()}
- tasks: abduction (x is asked), deduction (y) and induction (p), as proposer and as solver
- primes: {self._span}{held_out}
- steps: {step}, each with {args.batch_size} proposals of each task and {args.n_attempts} attempts at each valid one
- code: commit {commit}, {versions}
- command:

      {self.command(step)}

## Accuracy

{self._accuracy(step, evaluated_at, evaluated)}

## Use

The solver reads this and answers in `\\boxed{{}}`; the answer here is {self.problem.solution}:

{_indented(self.prompt)}

## Licence

{self._licence()}
"""

    @property
    def _span(self) -> str:
        return f"{self.args.min_prime} to {self.args.max_prime}"

    def _beginning(self) -> str:
        args = self.args
        if args.model not in EMBEDDED_MODELS:
            return f"`{self.base_model or self.model}`"
        taught = "form and arithmetic" if args.model == REASONER_MODEL else "form"
        warm = f", then a supervised warm start on {taught}" if args.warm_starts else ""
        return f"random weights{warm}"

    def _accuracy(self, step: int, evaluated_at: int | None, evaluated: Counts | None) -> str:
        if evaluated_at is None or not evaluated:
            return "It was not evaluated."
        which = "problems that were held out of training" if self.args.held_out else "problems"
        when = "" if evaluated_at == step else f", after step {evaluated_at}, the last evaluation"
        rows = [
            f"| {task} | {right / n:.3f} | {right} | {n} |"
            for task, (right, n) in evaluated.items()
        ]
        title = f"| task | accuracy | right | {which} |"
        return "\n".join(
            [f"Greedy, one answer to each problem{when}:\n", title, "|---|---|---|---|", *rows]
        )

    def _licence(self) -> str:
        if is_small(self.language):
            return "MIT, as the program that made it."
        return f"As its base model's, `{self.base_model or self.model}`; see there."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
