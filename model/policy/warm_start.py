"""The format-only warm start of `tiny`: a random network learns to speak, not to invert.

A chat model can write `\\boxed{5}` from the start; a random network would never do so by chance. So `tiny`
is first trained, supervised, on texts of the right form with random numbers: legal guesses as answers,
and proposals of three arbitrary numbers. Afterwards its responses can be parsed, and it is as often
right as by guessing; all that it learns about inverses it learns from the verifier.
"""

from collections.abc import Iterable, Sequence
from random import Random
from string import Template

import torch

from custom_types import TASKS, Policy, Prompt, Role, TaskType
from model.args import AZRArgs
from prime_inversion import generate_problems, primes_between
from prompts import EQUATION
from utils.string_formatting import PromptRenderer, format_answer

IGNORED = -100  # the label that transformers' loss leaves out


def warm_start(policy: Policy, renderer: PromptRenderer, args: AZRArgs) -> float:
    """Train `policy.model` in place for `args.warm_start_steps` steps; the last loss, in nats."""
    example_rng = Random(f"{args.seed}/warm start")
    batches = (
        [_example(renderer, example_rng, args) for _ in range(args.warm_start_batch)]
        for _ in range(args.warm_start_steps)
    )
    return train_on_texts(policy, batches, args.warm_start_lr)


def train_on_texts(
    policy: Policy, batches: Iterable[Sequence[tuple[Prompt, str]]], lr: float
) -> float:
    """Train in place, one supervised AdamW step for each batch of prompts with their responses; the
    last loss, in nats a token."""
    model = policy.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    loss = torch.zeros(())
    model.train()
    for texts in batches:
        ids, labels = _pad(texts, policy)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _example(renderer: PromptRenderer, example_rng: Random, args: AZRArgs) -> tuple[Prompt, str]:
    """A prompt of a random role and task, and a response that is right in form only."""
    role, task = example_rng.choice(tuple(Role)), example_rng.choice(TASKS)
    span = args.min_prime, args.max_prime
    if role is Role.SOLVER:
        (problem,) = generate_problems(1, example_rng, *span, tasks=(task,), held_out=args.held_out)
        induction = task is TaskType.INDUCTION
        guesses: Sequence[int] = primes_between(*span) if induction else range(1, problem.p)
        return renderer.solver(problem), format_answer(example_rng.choice(guesses))
    references = generate_problems(args.n_references, example_rng, *span, tasks=(task,))
    numbers = {letter: example_rng.randint(1, args.max_prime) for letter in "xyp"}
    equation = Template(EQUATION[task]).substitute(numbers)
    return renderer.proposer(task, references), format_answer(equation)


def _pad(texts: Sequence[tuple[Prompt, str]], policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, (batch, time) int64; prompts and pads are not learned."""
    prompts = [list(prompt.ids) for prompt, _ in texts]
    responses = [
        [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.stop_ids[0]]
        for _, text in texts
    ]
    pairs = list(zip(prompts, responses, strict=True))
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    ids, labels = [], []
    for prompt, response in pairs:
        padding = width - len(prompt) - len(response)
        ids.append(prompt + response + [policy.pad_id] * padding)
        labels.append([IGNORED] * len(prompt) + response + [IGNORED] * padding)
    return torch.tensor(ids), torch.tensor(labels)
