"""Logits and uniform numbers in, tokens out; and from tokens to responses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from custom_types import Response
from model.engine.likelihood import chosen_logprobs, log_normaliser, scaled

STAYING = 0.75  # of the responses in the model: when no more have yet to end, the others leave


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


class Draws:
    """What has been drawn so far of responses to n prompts. uniform: (n, most) in [0, 1); token t of
    response i is drawn with the number [i, t].

    held: (m,) int64, the numbers of the responses that are in the model. ended: (m,) bool, which of them
    have ended; they stay until `few` says that those which have not are few.
    """

    def __init__(self, uniform: Tensor, temperature: float, stop_ids: Sequence[int], pad_id: int):
        self.uniform, self.temperature = uniform, temperature
        self.stop_ids, self.pad_id, self.step = stop_ids, pad_id, 0
        count, self.most = uniform.shape
        self.stops = torch.tensor(stop_ids, device=uniform.device)
        self.held = torch.arange(count, device=uniform.device)
        self.ended = torch.zeros_like(self.held, dtype=torch.bool)
        self.tokens = torch.full((count, self.most), pad_id, device=uniform.device)
        self.logprobs = torch.zeros(count, self.most, device=uniform.device)
        self._count = count

    @property
    def full(self) -> bool:
        """Whether responses have all the tokens that they may have."""
        return self.step == self.most

    def draw(self, logits: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The next token (m,) of each response that is held, from `logits[rows]`; of one that has ended
        the padding, so that equal rows stay equal."""
        drawn = self.uniform[self.held, self.step]
        token, logprob = sample_tokens(logits, self.temperature, drawn, rows)
        token = token.masked_fill(self.ended, self.pad_id)
        self.tokens[self.held, self.step], self.logprobs[self.held, self.step] = token, logprob
        self.ended |= are_stops(token, self.stops)
        self.step += 1
        return token

    def left(self) -> int:
        """How many have yet to end. Waits for the device."""
        return int((~self.ended).sum())

    def few(self, left: int) -> bool:
        """Whether so few have yet to end that the others should leave."""
        return left <= STAYING * self._count

    def keep(self, which: Tensor) -> None:
        """Hold these alone, (m,) bool or their places among those that are held."""
        self.held, self.ended = self.held[which], self.ended[which]
        self._count = len(self.held)

    def hold_one_each(self, rows: Tensor, count: int) -> None:
        """Hold one response of each of `count` rows of the model; rows: (m,) int64, whose each is."""
        one = torch.zeros(count, dtype=torch.int64, device=rows.device)
        one[rows] = torch.arange(len(rows), device=rows.device)
        self.held, self.ended = self.held[one], self.ended[one]

    def responses(self) -> list[Response]:
        """As far as they have been drawn."""
        drawn = slice(None), slice(self.step)
        return responses(self.tokens[drawn], self.logprobs[drawn], self.stop_ids)


def are_stops(tokens: Tensor, stops: Tensor) -> Tensor:
    """Which of the tokens, of any shape, are among stops (m,): bool."""
    return (tokens[..., None] == stops).any(-1)


def responses(tokens: Tensor, logprobs: Tensor, stop_ids: Sequence[int]) -> list[Response]:
    """Rows (n, T) of sampled tokens and their log-probabilities, each up to and including its first
    stop id."""
    is_stop = are_stops(tokens, torch.tensor(stop_ids, device=tokens.device))
    finished = is_stop.any(1)
    lengths = torch.where(finished, is_stop.int().argmax(1) + 1, tokens.shape[1])
    return [
        Response(tuple(ids[:length]), tuple(values[:length]), ended)
        for ids, values, length, ended in zip(
            tokens.tolist(), logprobs.tolist(), lengths.tolist(), finished.tolist(), strict=True
        )
    ]
