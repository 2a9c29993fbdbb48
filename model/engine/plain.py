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
from model.engine.protocol import Engine, Scores, cache_name
from model.engine.sampling import responses, sample_tokens


class PlainEngine(Engine):
    """Samples and scores with one row for each response."""

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
        for drawn in uniform.unbind(1):  # one number a row for each token
            output = forward(self.model, ids, mask, keep=1, use_cache=True, cache=cache)
            cache = getattr(output, cache_name(self.model))
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
        sources, mask = batch.sources[batch.response_mask], batch.response_mask
        time = batch.input_ids.shape[1]
        # The batch says of each token which tokens it sees. In a row of one response all its tokens see
        # the first one, and padding does not: that is the two-dimensional mask.
        seen = batch.attention_mask[:, 0, :, 0]
        logits = logits_at(self.model, batch.input_ids, seen, sources // time, sources % time)
        return Scores.at(mask, likelihood(logits, batch.targets[mask], temperature, floor))


def logits_at(model, ids: Tensor, mask: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """The logits (n, vocabulary) behind n tokens, each at its row and its place in that row. Only what
    stands from the first of these places on gets logits."""
    first = int(places.min()) if len(places) else 0
    output = forward(model, ids, mask, use_cache=False, keep=ids.shape[1] - first)
    return output.logits[:, first - ids.shape[1] :][rows, places - first]


def forward(model, ids: Tensor, mask: Tensor, *, keep: int, use_cache: bool, cache=None):
    """The model's output. ids (rows, time) int64; mask (rows, width) bool, true on real tokens, with a
    column for each position in the cache too. keep: of how many last positions the logits are read.
    use_cache: whether the output has a cache; cache: the one of what was read before, if any. Positions
    are counted from the first real token, and passed on to models that take them."""
    positions = mask.long().cumsum(1).sub(1).clamp(min=0)[:, -ids.shape[1] :]
    wanted = {"position_ids": positions, "logits_to_keep": keep}
    taken = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in wanted.items() if name in taken}
    if use_cache:
        inputs[cache_name(model)] = cache
    return model(input_ids=ids, attention_mask=mask.long(), use_cache=use_cache, **inputs)


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
    rows, places = response_mask.nonzero(as_tuple=True)
    logits = logits_at(model, input_ids, attention_mask.bool(), rows, places - 1)
    found = likelihood(logits, input_ids[response_mask], temperature, floor=0.0)
    scores = Scores.at(response_mask, found)
    return scores.logprobs, scores.entropy


def _length(example: Example) -> int:
    """Positions of its row: a last token is not read."""
    return len(example.rollout.prompt_ids) + len(example.rollout.response_ids) - 1
