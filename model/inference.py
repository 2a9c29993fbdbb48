"""Prompts in, sampled responses with their log-probabilities out; and the scoring of stored tokens.

`generate` samples from softmax(logits / temperature) and from nothing else: no setting of a
checkpoint's generation config takes part, and every row has its own uniform numbers, so that how
rows are sliced changes no row. `token_logprobs` scores stored tokens under the same distribution,
with or without gradient, and `response_logprobs` those of packed rows; what both call is the only
place where logits are shifted. `model/engine/likelihood.py` scales and normalises them.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from custom_types import MiniBatch, Policy, Prompt, Rollout
from model.engine.likelihood import ChoiceLikelihood, scaled
from model.engine.shared import prefill
from utils.processes import gather, share

LOGIT_CHUNK_ELEMENTS = 2**27  # 512 MiB of float32 logits at a time: 883 tokens of Qwen2.5
STAYING = 0.75  # of the rows in the model: when no more have yet to end, the others leave


@dataclass(frozen=True, slots=True)
class Response:
    """T >= 1 sampled ids, the stop id among them when finished, and their T log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


@contextmanager
def evaluating(model):
    """The model in eval mode, and back: in train mode dropout would take part."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def sample_tokens(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token a row: inverse-distribution sampling, or the most likely one at temperature 0.

    logits (rows, vocabulary) float, uniform (rows,) in [0, 1). Returns tokens (rows,) int64 and
    their log-probabilities (rows,) float32 under the distribution they are drawn from.
    """
    if temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits), dtype=torch.float32)
    logprobs = scaled(logits.float(), temperature).log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1)
    total = cumulative[:, -1:]
    # Strictly below the total, so that rounding never selects past the last possible token.
    threshold = torch.minimum(
        uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    tokens = torch.searchsorted(cumulative, threshold, right=True)
    return tokens.squeeze(1), logprobs.gather(1, tokens).squeeze(1)


@torch.no_grad()
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
) -> list[Response]:
    """One response a prompt, in order, at most `max_rows` of them in the model at a time.

    prompts: token ids, ragged. temperature 0 is greedy and draws nothing. generator: a CPU
    generator, advanced by one uniform number for each row and possible token. Where several processes
    run, all of them ask, each samples its share, and each gets all responses.
    """
    shape = (len(prompts), max_new_tokens)
    uniform = torch.rand(shape, generator=generator) if temperature > 0 else torch.zeros(shape)
    settings = temperature, stop_ids, pad_id, max_rows
    return gather(generate_rows(model, share(prompts), share(uniform), *settings))


@torch.no_grad()
def generate_rows(
    model, prompts, uniform: Tensor, temperature: float, stop_ids, pad_id: int, max_rows: int
) -> list[Response]:
    """`generate` by this process alone. uniform: (rows, most tokens) in [0, 1), what it draws with."""
    responses: list[Response] = []
    with evaluating(model):
        for start in range(0, len(prompts), max_rows):
            part = slice(start, start + max_rows)
            drawn = uniform[part].to(model.device)
            responses += _generate_slice(model, prompts[part], drawn, temperature, stop_ids, pad_id)
    return responses


def _generate_slice(model, prompts, uniform, temperature, stop_ids, pad_id) -> list[Response]:
    """Rows that have the same tokens so far are one row of the model until they part. Rows that have
    ended leave it when they are enough: each time costs a copy of the cache."""
    device, (count, most) = model.device, uniform.shape
    stops = torch.tensor(stop_ids, device=device)
    place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    logits, decoding = prefill(model, list(place), pad_id, most)
    # Of each row that is held: which row of the model is its own, and whether it has ended.
    state = torch.tensor([place[prompt] for prompt in prompts], device=device)
    done = torch.zeros_like(state, dtype=torch.bool)
    held = torch.arange(count, device=device)

    tokens = torch.full((count, most), pad_id, device=device)
    logprobs = torch.zeros(count, most, device=device)
    for step in range(most):
        words, logits = logits.shape[-1], logits[state]
        token, logprob = sample_tokens(logits, temperature, uniform[held, step])
        token = token.masked_fill(done, pad_id)  # so that ended rows do not part
        tokens[held, step], logprobs[held, step] = token, logprob
        done |= torch.isin(token, stops)
        going = int((~done).sum())
        if step + 1 == most or not going:
            break
        if going <= STAYING * len(held):
            held, state, token, done = (own[~done] for own in (held, state, token, done))
        distinct, state = torch.unique(state * words + token, return_inverse=True)
        logits = decoding.extend(distinct // words, distinct % words)
    return _cut(tokens[:, : step + 1], logprobs[:, : step + 1], stops)


def _cut(tokens: Tensor, logprobs: Tensor, stops: Tensor) -> list[Response]:
    """Rows (rows, T) up to and including their first stop id."""
    is_stop = torch.isin(tokens, stops)
    finished = is_stop.any(1)
    lengths = torch.where(finished, is_stop.int().argmax(1) + 1, tokens.shape[1])
    return [
        Response(tuple(ids[:length]), tuple(values[:length]), end)
        for ids, values, length, end in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]


def rollout(
    policy: Policy,
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    max_rows: int,
    generator: torch.Generator,
) -> list[Rollout]:
    """The policy's response to each prompt, of any roles and tasks, all through the model together.

    Prompts of one call share their token limit. `old_logprobs` are those of sampling; training replaces them by its own forward's.
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
    )
    texts = decode(policy.tokenizer, responses)
    return [
        Rollout(
            prompt.role, prompt.task, prompt.problem, prompt.ids,
            response.ids, response.logprobs, text, response.finished,
        )
        for prompt, response, text in zip(prompts, responses, texts, strict=True)
    ]  # fmt: skip


def decode(tokenizer, responses: Sequence[Response]) -> list[str]:
    """The text of each response without its stop id. A model may sample ids that its tokenizer has
    no word for; a response with one is unreadable, U+FFFD, rather than the text around it."""
    known = len(tokenizer)
    bodies = [response.ids[: len(response.ids) - response.finished] for response in responses]
    distinct = list(dict.fromkeys(bodies))  # short answers repeat
    texts = tokenizer.batch_decode(
        distinct, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    text_of = {
        body: text if all(token < known for token in body) else "\ufffd"
        for text, body in zip(texts, distinct, strict=True)
    }
    return [text_of[body] for body in bodies]


def position_ids(attention_mask: Tensor) -> Tensor:
    """0, 1, 2, ... over the real tokens of each row (rows, time), whichever side is padded."""
    return attention_mask.long().cumsum(1).sub(1).clamp(min=0)


def _score(
    hidden: Tensor, targets: Tensor, head, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each target, entropy, and entropy among the tokens of at least `floor`."""
    return ChoiceLikelihood.apply(head(hidden), targets, temperature, floor)


def token_logprobs(
    model, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, in nats, of the sampling distribution at each response token.

    input_ids (batch, time) int64; attention_mask, response_mask (batch, time) bool. Returns two
    (batch, time) float32 tensors (float64 for a float64 model) whose entry t belongs to token t of `input_ids` (so it comes from
    the logits at t - 1) and is 0 outside `response_mask`. Only response positions get logits, a
    chunk at a time, recomputed in the backward pass: a vocabulary of 151,936 over every position
    would not fit a GPU. Raises ValueError for a response that starts at position 0.
    """
    if response_mask[:, 0].any():
        raise ValueError("a response needs a prompt before it")
    places = torch.arange(input_ids.numel(), device=input_ids.device).view_as(input_ids)
    return _score_responses(
        model,
        (input_ids, attention_mask.long(), position_ids(attention_mask)),
        sources=places - 1,
        targets=input_ids,
        mask=response_mask,
        temperature=temperature,
    )[:2]


def response_logprobs(
    model, batch: MiniBatch, temperature: float, floor: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """`token_logprobs` of packed rows: log-probability and entropy, (n, length) each, of the
    responses of a MiniBatch, 0 outside its `response_mask`; and the entropy of the choice among the
    tokens whose probability is at least `floor`, which without one is the entropy."""
    return _score_responses(
        model,
        (batch.input_ids, batch.attention_mask, batch.position_ids),
        sources=batch.sources,
        targets=batch.targets,
        mask=batch.response_mask,
        temperature=temperature,
        floor=floor,
    )


def _score_responses(
    model, read, *, sources: Tensor, targets: Tensor, mask: Tensor, temperature: float, floor=0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """read: ids, attention mask and positions, as the model takes them. sources, targets, mask, of one
    shape: where each token's logits come from, as an index into the flattened ids; the token; and
    whether it counts."""
    input_ids, attention_mask, positions = read
    hidden = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, sources[mask])
    head = model.get_output_embeddings()
    words = getattr(head, "out_features", None) or model.config.vocab_size
    chunk = max(1, LOGIT_CHUNK_ELEMENTS // words)
    settings = head, temperature, floor
    *others, last = zip(hidden.split(chunk), targets[mask].split(chunk), strict=True)
    parts = [checkpoint(_score, *part, *settings, use_reentrant=False) for part in others]
    parts.append(_score(*last, *settings))  # the backward pass begins with it: nothing to recompute
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    blank = joined[0].new_zeros(mask.shape)
    return tuple(blank.masked_scatter(mask, values) for values in joined)
