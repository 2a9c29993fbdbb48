"""What an engine is: it samples responses to prompts, and it scores examples under the distribution it
samples from. There are two: `plain`, the definition, and `shared`, which is fast and equal to it.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from custom_types import Example, MiniBatch, Response, Rollout


class Scores(NamedTuple):
    """Of each response token of a MiniBatch, (n, length) float32 at least, in nats, 0 outside its
    `response_mask`: its log-probability; the entropy of the choice that it was; and the entropy of the
    choice among the tokens of at least some probability, which is what an entropy bonus is paid for."""

    logprobs: Tensor
    entropy: Tensor
    likely_entropy: Tensor

    @classmethod
    def at(cls, mask: Tensor, found: Iterable[Tensor]) -> "Scores":
        """From what was found, (tokens,) each, of the tokens where `mask` is true, row by row."""
        return cls(*(values.new_zeros(mask.shape).masked_scatter(mask, values) for values in found))

    def detach(self) -> "Scores":
        """The same numbers, without their gradients."""
        return Scores(*(values.detach() for values in self))


def cache_name(model) -> str:
    """How a model calls its cache, in what it takes and in what it gives: transformers renames it in
    5.24."""
    taken = inspect.signature(model.forward).parameters
    return "cache" if "cache" in taken else "past_key_values"


class Engine(ABC):
    """Made from a model, the ids that end a response, and the id that fills padded rows."""

    def __init__(self, model, stop_ids: Sequence[int], pad_id: int):
        self.model, self.stop_ids, self.pad_id = model, stop_ids, pad_id

    @abstractmethod
    def sample(
        self, prompts: Sequence[tuple[int, ...]], uniform: Tensor, temperature: float
    ) -> list[Response]:
        """One response to each of n prompts, in order. uniform: (n, most tokens) in [0, 1); token t of
        response i is drawn with the number [i, t], so no row depends on the others. Temperature 0 takes
        the likeliest token. The model must be in eval mode."""

    @abstractmethod
    def batches(self, examples: Sequence[Example], max_tokens: int) -> list[MiniBatch]:
        """All examples, collated so that no batch has more than `max_tokens` positions, or else one row
        as long as the longest example."""

    @abstractmethod
    def score(self, batch: MiniBatch, temperature: float, floor: float = 0.0) -> Scores:
        """How likely the stored responses are now, with gradient where gradients are on. floor: the
        least probability of a token that counts in the last of the scores."""

    def logprobs(
        self, rollouts: Sequence[Rollout], max_tokens: int, temperature: float
    ) -> list[list[float]]:
        """The log-probabilities of the tokens of each response, in nats, as an update computes them.
        max_tokens: as in `batches`."""
        # Each weighs another number, by which it is known in whatever order it comes back.
        examples = [Example(rollout, 0.0, float(number)) for number, rollout in enumerate(rollouts)]
        found: dict[int, list[float]] = {}
        for batch in self.batches(examples, max_tokens):
            batch = batch.to(self.model.device)
            logprobs = self.score(batch, temperature).logprobs.tolist()
            for number, values in zip(batch.weights.int().tolist(), logprobs, strict=True):
                found[number] = values[: len(rollouts[number].response_ids)]
        return [found[number] for number in range(len(rollouts))]
