"""The plain engine: pad, run the model as transformers documents it, take the softmax.

It is the definition of the method's forward pass: what it says is right, for any causal language model
that reads a two-dimensional attention mask and keeps its cache itself, whatever it does inside (windows,
ALiBi, scaled or capped logits). `model/engine/shared.py` computes the same with less work, where it can.
Example: the prompts `7 8` and `9` are read as

    ids    7 8      attention_mask  1 1      and then one sampled token a row, with the cache
           . 9                      0 1

and the example `7 8 -> 4 2` is scored in the row `7 8 4`: the logits behind 8 say how likely 4 is, those
behind 4 how likely 2 is.
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor

from buffer.base_buff import collate
from custom_types import Example, MiniBatch, Response
from model.engine.likelihood import likelihood
from model.engine.protocol import Scores
from model.engine.sampling import responses, sample_tokens


class PlainEngine:
    """Samples and scores with one row for each response."""

    def __init__(self, model, stop_ids: Sequence[int], pad_id: int):
        self.model, self.stop_ids, self.pad_id = model, stop_ids, pad_id

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[tuple[int, ...]], uniform: Tensor, temperature: float
    ) -> list[Response]:
        """Prompts padded on the left, then a token a row at a time until all rows have ended."""
        device, width = self.model.device, max(map(len, prompts))
        padding = [width - len(prompt) for prompt in prompts]
        rows = [[self.pad_id] * n + list(ids) for n, ids in zip(padding, prompts, strict=True)]
        ids = torch.tensor(rows, device=device)
        mask = torch.arange(width, device=device) >= torch.tensor(padding, device=device)[:, None]
        stops = torch.tensor(self.stop_ids, device=device)
        ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        tokens, logprobs, cache = [], [], None
        for drawn in uniform.T:
            output = forward(self.model, ids, mask, past_key_values=cache, use_cache=True, keep=1)
            cache = output.past_key_values
            token, logprob = sample_tokens(output.logits[:, -1], temperature, drawn)
            tokens.append(token)
            logprobs.append(logprob)
            ended |= torch.isin(token, stops)
            if ended.all():
                break
            ids, mask = token[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return responses(torch.stack(tokens, 1), torch.stack(logprobs, 1), self.stop_ids)

    def batches(self, examples: Sequence[Example], max_tokens: int) -> list[MiniBatch]:
        """A row for each example, rows of about one length together."""
        ordered = sorted(examples, key=_length)
        size = max(1, max_tokens // max(map(_length, examples), default=1))
        starts = range(0, len(ordered), size)
        return [
            collate([[example] for example in ordered[start : start + size]], self.pad_id)
            for start in starts
        ]

    def score(self, batch: MiniBatch, temperature: float, floor: float = 0.0) -> Scores:
        """One pass over whole rows, with the logits from the first response token's source on."""
        places = batch.sources[batch.response_mask]
        time = batch.input_ids.shape[1]
        # In a row of one response every token sees the first one, and padding does not.
        mask = batch.attention_mask[:, 0, :, 0]
        first = int((places % time).min())
        output = forward(self.model, batch.input_ids, mask, use_cache=False, keep=time - first)
        logits = output.logits[:, first - time :]
        chosen = logits[places // time, places % time - first]
        found = likelihood(chosen, batch.targets[batch.response_mask], temperature, floor)
        blank = found[0].new_zeros(batch.response_mask.shape)
        return Scores(*(blank.masked_scatter(batch.response_mask, values) for values in found))


def forward(model, ids: Tensor, mask: Tensor, *, keep: int, **cache):
    """The model's output. ids (rows, time) int64; mask (rows, width) bool, true on real tokens, with a
    column for each position in the cache too. keep: of how many last positions the logits are read.
    Positions are counted from the first real token, and passed on to models that take them."""
    positions = mask.long().cumsum(1).sub(1).clamp(min=0)[:, -ids.shape[1] :]
    wanted = {"position_ids": positions, "logits_to_keep": keep}
    taken = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in wanted.items() if name in taken}
    return model(input_ids=ids, attention_mask=mask.long(), **inputs, **cache)


def token_logprobs(
    model, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, in nats, of the sampling distribution at each response token.

    input_ids (batch, time) int64; attention_mask, response_mask (batch, time) bool; padded on either
    side. Returns two (batch, time) float32 tensors (float64 for a float64 model) whose entry t belongs
    to token t of `input_ids` (so it comes from the logits at t - 1) and is 0 outside `response_mask`.
    Raises ValueError for a response that starts at position 0.
    """
    if response_mask[:, 0].any():
        raise ValueError("a response needs a prompt before it")
    time = input_ids.shape[1]
    first = max(0, int(response_mask.any(0).int().argmax()) - 1)  # the first source of any row
    output = forward(model, input_ids, attention_mask.bool(), use_cache=False, keep=time - first)
    logits = output.logits[:, first - time : -1][response_mask[:, first + 1 :]]
    logprobs, entropy, _ = likelihood(logits, input_ids[response_mask], temperature, floor=0.0)
    blank = logprobs.new_zeros(response_mask.shape)
    return blank.masked_scatter(response_mask, logprobs), blank.masked_scatter(
        response_mask, entropy
    )


def _length(example: Example) -> int:
    return len(example.rollout.prompt_ids) + len(example.rollout.response_ids)
