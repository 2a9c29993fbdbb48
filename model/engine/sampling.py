"""Logits and uniform numbers in, tokens out; and from tokens to responses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from custom_types import Response
from model.engine.likelihood import chosen_logprobs, log_normaliser, scaled


def sample_tokens(
    logits: Tensor, temperature: float, uniform: Tensor, rows: Tensor | slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """A token of each of `logits[rows]`: inverse-distribution sampling, or the most likely one at
    temperature 0.

    logits (m, vocabulary) float; rows (n,) int64, all of them in order if not given; uniform (n,) in
    [0, 1). Returns tokens (n,) int64 and their log-probabilities (n,) float32 under the distribution
    they are drawn from. A row that several tokens are drawn from is normalised once.
    """
    if temperature == 0:
        tokens = logits.argmax(-1)[rows]
        return tokens, torch.zeros_like(tokens, dtype=torch.float32)
    z = scaled(logits.float(), temperature)  # what is kept of a rollout is float32
    normaliser = log_normaliser(z)  # first, so that there are never more than three such tables
    cumulative = z.log_softmax(-1).exp().cumsum(-1)[rows]
    total = cumulative[:, -1:]
    # Strictly below the total, so that rounding never selects past the last possible token.
    threshold = torch.minimum(
        uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    tokens = torch.searchsorted(cumulative, threshold, right=True).squeeze(1)
    return tokens, chosen_logprobs(z[rows], tokens, normaliser[rows])


def responses(tokens: Tensor, logprobs: Tensor, stop_ids: Sequence[int]) -> list[Response]:
    """Rows (n, T) of sampled tokens and their log-probabilities, each up to and including its first
    stop id."""
    is_stop = torch.isin(tokens, torch.tensor(stop_ids, device=tokens.device))
    finished = is_stop.any(1)
    lengths = torch.where(finished, is_stop.int().argmax(1) + 1, tokens.shape[1])
    return [
        Response(tuple(ids[:length]), tuple(values[:length]), ended)
        for ids, values, length, ended in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]
