r"""The embedded policy `reasoner`, which writes a scratchpad before its answer:

    1=4 2=1 \boxed{2}           2 * 4 ≡ 1 (mod 7), x or y asked: each candidate k, and k times the
                                given number modulo p
    0=8 5=3 7=1 \boxed{7}       2 * 4 ≡ 1 (mod p), p asked: the product 0 * 60 + 8, then each prime q,
                                and the product modulo q

It begins every run with the arithmetic that this takes and knows nothing about inverses: it lists
candidates, stops anywhere, and answers the last one, which is right as often as a guess. That a
result of 1 is what to stop at, it learns from the verifier. Because the rule is the same for all
problems, it can answer those that it was never trained on.

The arithmetic is learned from one constant seed, for all ranges of primes at once, and kept in a cache
folder: all runs begin with the same policy, as runs of a pretrained model do.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from string import Template

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from constants import REASONER_MODEL, REASONER_PRIME
from custom_types import TASKS, Policy, Prompt, TaskType
from model.args import AZRArgs
from model.policy.embedded import embedded_policy, word_tokenizer
from model.policy.supervised import train_on_texts
from model.policy.weights import PolicyError
from prime_inversion import generate_problems, given_residue, primes_between
from prompts import COMPACT_WORDS, SCRATCHPAD, WORKED
from utils.string_formatting import PromptRenderer, equation_of, format_answer, format_equation

BASE = 60  # in which a product is written, as two numbers
SEED = 0  # of the arithmetic: the same for all runs
PROPOSALS = 0.15  # share of the texts that are proposals
WIDEST = 0.5  # share of the prompts that name the widest range
LONG = 0.25  # share of the steps whose lists may have all candidates, others at most
SHORT = 24  # of them
WARMUP, LEAST = 50, 0.02  # steps; share of the learning rate at the end
CACHE = "absolute-zero-prime-inversion"


def reasoner_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each number, each result and each word of the compact language."""
    results = (Template(WORKED).substitute(result=n) for n in range(REASONER_PRIME))
    return word_tokenizer([*results, *COMPACT_WORDS, *map(str, range(REASONER_PRIME + 1))])


def build_reasoner(max_prime: int) -> Policy:
    """The policy with random weights: 268,704 parameters. Raises PolicyError for a larger prime than it
    has words for."""
    if max_prime > REASONER_PRIME:
        raise PolicyError(
            f"--max-prime {max_prime}: must be at most {REASONER_PRIME} for --model {REASONER_MODEL}, "
            f"which has words for smaller numbers only"
        )
    shape = dict(hidden=96, mlp=288, layers=2, positions=512)
    return embedded_policy(REASONER_MODEL, SCRATCHPAD, reasoner_tokenizer(), SEED, **shape)


# ---------------------------------------------------------------- what it is taught


def scratchpad(task: TaskType, x: int, y: int, p: int, primes: tuple[int, ...]) -> list[str]:
    """Every candidate with its result, in order: of a problem of the task, or where p is asked of any
    x and y, whose p is not looked at."""
    if task is TaskType.INDUCTION:
        pairs = [divmod(x * y, BASE), *((q, x * y % q) for q in primes)]
    else:
        given = given_residue(task, x, y)
        pairs = [(k, k * given % p) for k in range(1, p)]
    return [
        f"{candidate}{Template(WORKED).substitute(result=result)}" for candidate, result in pairs
    ]


def _answer(renderer: PromptRenderer, rng: Random, most: int) -> tuple[Prompt, str]:
    """A solver's prompt, and a list that ends anywhere, at most after `most` candidates."""
    task, primes = rng.choice(TASKS), primes_between(**renderer.numbers)
    (problem,) = generate_problems(1, rng, **renderer.numbers, tasks=(task,))
    x, y, p = problem.x, problem.y, problem.p
    prompt = renderer.solver(problem)
    if task is TaskType.INDUCTION:  # two numbers of which nobody knows whether a prime fits
        x, y = rng.randrange(1, p), rng.randrange(1, p)
        text = prompt.text.replace(format_equation(problem), equation_of(task, x, y, p))
        prompt = replace(prompt, text=text, ids=renderer.encode(text))
    steps = scratchpad(task, x, y, p, primes)
    first = 2 if task is TaskType.INDUCTION else 1  # after the product, one prime at least
    steps = steps[: min(rng.randint(first, len(steps)), most)]
    return prompt, "".join(steps) + format_answer(steps[-1].partition("=")[0])


def _proposal(renderer: PromptRenderer, rng: Random, n_references: int) -> tuple[Prompt, str]:
    """A proposer's prompt, and an equation of numbers below a random prime; where p is asked, mostly of
    numbers that no prime fits."""
    task, primes = rng.choice(TASKS), primes_between(**renderer.numbers)
    references = generate_problems(n_references, rng, **renderer.numbers, tasks=(task,))
    p = rng.choice(primes)
    x, y = rng.randrange(1, p), rng.randrange(1, p)
    return renderer.proposer(task, references), format_answer(equation_of(task, x, y, p))


def _texts(policy: Policy, args: AZRArgs, rng: Random) -> Iterator[list[tuple[Prompt, str]]]:
    """A batch for each step, of prompts that name all ranges, half of them the widest."""
    renderers = [
        PromptRenderer.for_policy(policy, replace(args, max_prime=largest, held_out=0.0))
        for largest in primes_between(args.min_prime, REASONER_PRIME)
    ]
    for _ in range(args.warm_start_steps):
        most = REASONER_PRIME if rng.random() < LONG else SHORT
        texts = []
        for _ in range(args.warm_start_batch // (2 if most > SHORT else 1)):
            renderer = renderers[-1] if rng.random() < WIDEST else rng.choice(renderers)
            if rng.random() < PROPOSALS:
                texts.append(_proposal(renderer, rng, args.n_references))
            else:
                texts.append(_answer(renderer, rng, most))
        yield texts


def _rates(args: AZRArgs) -> Iterator[float]:
    """The learning rate of each step: up, and from the middle on down in a straight line."""
    steps = args.warm_start_steps
    for step in range(steps):
        falling = min(1.0, max(LEAST, 2 * (steps - step) / steps))
        yield args.warm_start_lr * min(1.0, (step + 1) / WARMUP) * falling


# ---------------------------------------------------------------- once, and kept


def learn_arithmetic(policy: Policy, args: AZRArgs, say: Callable[[str], None]) -> float | None:
    """Teach `policy.model`, in place, or give it what is kept of the last time; the last loss in nats a
    token, None where it was kept. say: hears what takes minutes, before it does."""
    kept = _kept_weights(args)
    if kept.is_file():
        try:
            policy.model.load_state_dict(load_file(kept))
            return None
        except (OSError, SafetensorError, RuntimeError):  # cut off, or of another program
            pass
    say(
        f"{REASONER_MODEL} learns arithmetic first, once: {args.warm_start_steps} steps, some minutes; kept in "
        f"{kept.parent}"
    )
    rng = Random(f"{SEED}/arithmetic")
    loss = train_on_texts(policy, _texts(policy, args, rng), _rates(args), max_grad_norm=1.0)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            file = Path(folder) / kept.name
            save_file(policy.model.state_dict(), file)
            file.replace(kept)  # whole or not at all, whoever else writes it
    except OSError as error:
        say(f"its arithmetic is not kept: {kept.parent} cannot be written ({error.strerror})")
    return loss


def _kept_weights(args: AZRArgs) -> Path:
    """Where the weights are kept that this program makes for these arguments."""
    settings = args.min_prime, args.n_references
    lessons = args.warm_start_steps, args.warm_start_lr, args.warm_start_batch
    sources = Path(__file__).read_bytes() + Path(__file__).with_name("embedded.py").read_bytes()
    name = hashlib.sha256(f"{settings} {lessons}".encode() + sources).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / CACHE / f"{REASONER_MODEL}-{name}.safetensors"
