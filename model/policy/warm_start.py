"""The format-only warm start of `tiny`: a random network learns to speak, not to invert.

A chat model can write `\\boxed{5}` from the start; a random network would never do so by chance. So `tiny`
is first trained, supervised, on texts of the right form with random numbers: legal guesses as answers,
and proposals of three arbitrary numbers. Afterwards its responses can be parsed, and it is as often
right as by guessing; all that it learns about inverses it learns from the verifier.
"""

from collections.abc import Callable, Sequence
from itertools import repeat
from random import Random

from custom_types import TASKS, Policy, Prompt, Role, TaskType
from model.args import AZRArgs
from model.policy.reasoner import learn_arithmetic
from model.policy.supervised import train_on_texts
from prime_inversion import generate_problems, primes_between
from prompts import SCRATCHPAD
from utils.string_formatting import PromptRenderer, equation_of, format_answer


def warm_start(
    policy: Policy,
    renderer: PromptRenderer,
    args: AZRArgs,
    say: Callable[[str], None] = lambda line: None,
) -> float | None:
    """Train `policy.model` in place for `args.warm_start_steps` steps; the last loss, in nats, None where
    nothing had to be learned. say: hears what takes minutes, before it does."""
    if policy.prompts is SCRATCHPAD:
        return learn_arithmetic(policy, args, say)
    example_rng = Random(f"{args.seed}/warm start")
    batches = (
        [_example(renderer, example_rng, args) for _ in range(args.warm_start_batch)]
        for _ in range(args.warm_start_steps)
    )
    return train_on_texts(policy, batches, repeat(args.warm_start_lr))


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
    x, y, p = (example_rng.randint(1, args.max_prime) for _ in "xyp")
    return renderer.proposer(task, references), format_answer(equation_of(task, x, y, p))
