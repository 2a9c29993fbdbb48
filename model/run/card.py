"""The model card of a checkpoint, `README.md` in its folder: what Hugging Face's hub shows of it. It says
the same of a run that was interrupted and of one that was not.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from os.path import isdir
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from constants import EMBEDDED_MODELS, REASONER_MODEL, SMOLLM2_HUB_ID, SMOLLM2_MODEL
from custom_types import TASKS, Policy, Problem, TaskType
from model.args import CHANGEABLE, AZRArgs
from model.flags import flag_name
from model.presets import is_small, preset
from model.proposers.table import PROPOSERS
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer

CARD = "README.md"
HUB = "https://huggingface.co"
PAPER = "https://arxiv.org/abs/2505.03335"
LIBRARIES = "torch", "transformers"
# Where a step's problems come from, by --proposer.
PROBLEMS = {
    "self": "proposed by the model itself, which is self-play",
    "untrained": "proposed by the model itself, which did not learn from how they fared",
    "frozen": "proposed by the model as it was before step 1",
    "uniform": "drawn uniformly",
    "log_uniform": "drawn, a prime p with weight 1/p",
    "window": "drawn among the smallest primes, one more every few steps",
    "adaptive": "drawn by how often each was solved last",
    "yoked": "drawn uniformly, as many as another run's model proposed",
    "replayed": "what another run's model proposed",
    "decoy": "drawn uniformly; the model learned to propose others beside them",
    "none": "drawn from a buffer of random ones",
}

Counts = Mapping[
    str, tuple[int, int]
]  # by task: how many problems were answered right, of how many


def hub_id(model: str) -> str | None:
    """The name on the hub of what a value of `--model` is; None for what the program builds itself and for
    a local folder."""
    if model in EMBEDDED_MODELS or isdir(model):
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
    """What a card says of a run at any of its steps. base_model: as `hub_id` gives it. prompt: the text that
    a problem is put to the solver with, to its last space."""

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
        return args.model if own else Path(args.model).resolve().name

    def command(self, step: int) -> str:
        """The command line of a run that ends at this step. Left out are what its preset has, what may
        change when a run is resumed, and the places of folders."""
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
                words += [flag, Path(value).name if item.name == "yoked_to" else str(value)]
        return shlex.join(words)

    def front_matter(self, evaluated: Counts | None) -> ModelCardData:
        """What the hub reads."""
        name = f"{self.model.rpartition('/')[-1]}-prime-inversion"
        kept: dict = dict(license="mit")
        if not is_small(self.language):
            kept = dict(license="other", license_name="that-of-the-base-model")
            if self.base_model is not None:
                kept |= dict(base_model=self.base_model, license_link=f"{HUB}/{self.base_model}")
        played = ["self-play"] if self.args.proposer == "self" else []
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
            tags=["absolute-zero", *played, "reinforcement-learning", "prime-inversion"],
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

# {self.model} after {step} steps on prime inversion

A language model that learned to solve problems about `x * y ≡ 1 (mod p)` by reinforcement learning, with rewards from
a verifier's verdicts. The method is that of [Absolute Zero]({PAPER}).

## Training

- began as: {self._beginning()}
- tasks: abduction (x is asked), deduction (y) and induction (p)
- primes: {self._span}{held_out}
- problems: {PROBLEMS[args.proposer]}
- paid for: {self._paid_for()}
- steps: {step}, each with at most {args.batch_size} new problems of each task and {args.n_attempts} attempts at each
- code: commit {commit}, {versions}
- command:

      {self.command(step)}

## Accuracy

{self._accuracy(step, evaluated_at, evaluated)}

## Use

The solver reads a prompt like this one, to its last space, and answers in `\\boxed{{}}`; here {self.problem.solution}
is right:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # that this card lies in, or its name on the hub
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
prompt = {self.prompt!r}
asked = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
written = model.generate(**asked, max_new_tokens={args.max_answer_tokens}, do_sample=False)
print(tokenizer.decode(written[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))
```

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

    def _paid_for(self) -> str:
        args = self.args
        answers = "well-formed answers" if args.reward == "format" else "right answers"
        if not PROPOSERS[args.proposer].learns:
            return answers
        earned = "" if args.reward in ("constant", "format") else f", by {args.reward}"
        return f"{answers}, and valid proposals{earned}"

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
