"""Prompts in, sampled responses with their log-probabilities out; and the scoring of stored tokens.

`generate` samples from softmax(logits / temperature) and from nothing else: no setting of a
checkpoint's generation config takes part, and every row has its own uniform numbers, so that how
rows are sliced changes no row. `token_logprobs` scores stored tokens under the same distribution, with
or without gradient. Who computes it is an engine, `model/engine/plain.py` or `model/engine/shared.py`, the
latter perhaps with the decoding of `model/engine/static.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil

import torch

from custom_types import Policy, Prompt, Response, Rollout
from model.engine.plain import PlainEngine, token_logprobs
from model.engine.protocol import Engine
from model.engine.shared import SharedEngine
from model.engine.static import StaticEngine
from model.policy.modes import evaluating
from utils.processes import gather, share
from utils.string_formatting import decode

__all__ = ["ENGINES", "engine_of", "engine_type", "generate", "rollout", "token_logprobs"]

ENGINES: dict[str, type[Engine]] = {"plain": PlainEngine, "shared": SharedEngine}


def engine_type(policy: Policy) -> type[Engine]:
    """The engine that a policy names, with the decoding that it names."""
    named = ENGINES[policy.engine]
    return StaticEngine if named is SharedEngine and policy.decode == "graph" else named


def engine_of(policy: Policy) -> Engine:
    """That engine around the policy's model."""
    return engine_type(policy)(policy.model, policy.stop_ids, policy.pad_id)


def slices(count: int, most: int) -> list[slice]:
    """`count` rows in as few stretches of at most `most` rows as there can be, whose lengths differ by one
    at most: 3 x 288 for 864 rows of which 384 fit, not 384 + 384 + 96.

    A slice takes as long as its longest response, so a short last one costs as much as a full one.
    Neighbours stay together, as attempts at one problem should: where a cut parts them, their prompt is
    read twice.
    """
    number = ceil(count / most)
    ends = [count * place // number for place in range(number + 1)] if count else []
    return [slice(start, end) for start, end in pairwise(ends)]


def largest_slice(count: int, most: int) -> int:
    """How many rows are in the model at a time, at most."""
    return max((rows.stop - rows.start for rows in slices(count, most)), default=0)


def generate(
    model,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop_ids: Sequence[int],
    pad_id: int,
    max_rows: int,
    generator: torch.Generator,
    engine: type[Engine] = SharedEngine,
) -> list[Response]:
    """One response a prompt, in order, at most `max_rows` of them in the model at a time: see `slices`.

    prompts: token ids, ragged. temperature 0 is greedy and draws nothing. generator: a CPU
    generator, advanced by one uniform number for each row and possible token. Where several processes
    run, all of them ask, each samples its share, and each gets all responses.
    """
    shape = (len(prompts), max_new_tokens)
    uniform = torch.rand(shape, generator=generator) if temperature > 0 else torch.zeros(shape)
    prompts, uniform = share(prompts), share(uniform)
    sampler, responses = engine(model, stop_ids, pad_id), []
    with evaluating(model):
        for rows in slices(len(prompts), max_rows):
            drawn = uniform[rows].to(model.device)
            responses += sampler.sample(prompts[rows], drawn, temperature)
    return gather(responses)


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    max_rows: int,
    generator: torch.Generator,
) -> list[Rollout]:
    """The policy's response to each prompt, of any roles and tasks, all through the model together.

    Prompts of one call share their token limit. `old_logprobs` are those of sampling; training replaces
    them by its own forward's.
    """
    if not prompts:
        return []
    (max_new_tokens,) = {prompt.max_tokens for prompt in prompts}
    responses = generate(
        policy.model,
        [prompt.ids for prompt in prompts],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        stop_ids=policy.stop_ids,
        pad_id=policy.pad_id,
        max_rows=max_rows,
        generator=generator,
        engine=engine_type(policy),
    )
    texts = decode(policy.tokenizer, responses)
    return list(map(Rollout.of, prompts, responses, texts))
