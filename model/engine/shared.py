"""The shared engine: what sequences have in common is computed once.

Sampling reads prompts as prefix trees and keeps one row of the model for all rows that have the same
tokens so far; scoring packs examples into rows of prefix trees and has the gradient of its likelihood
written out. For models that read a four-dimensional attention mask by position, look at all they are
given, and whose logits are what their output layer makes of the last hidden state; there it equals
`model/engine/plain.py`, which is its definition.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from buffer.base_buff import collate, microbatches
from custom_types import Example, MiniBatch, Response
from model.engine.decoding import Decoding, decode_apart, prefill
from model.engine.likelihood import OutputLayer
from model.engine.protocol import Engine, Scores
from model.engine.sampling import Draws

LOGIT_CHUNK_ELEMENTS = 2**27  # 512 MiB of float32 logits at a time: 883 tokens of Qwen2.5


class SharedEngine(Engine):
    """Samples and scores with prompts, and equal beginnings of responses, shared."""

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[tuple[int, ...]], uniform: Tensor, temperature: float
    ) -> list[Response]:
        """Rows that have the same tokens so far are one row of the model until they part. Rows that
        have ended leave it when they are enough: each time costs a copy of the cache."""
        draws = Draws(uniform, temperature, self.stop_ids, self.pad_id)
        place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        logits, decoding = prefill(self.model, list(place), self.pad_id, draws.most)
        words = logits.shape[-1]
        # The row of the model that each response that is held is in.
        rows = torch.tensor([place[prompt] for prompt in prompts], device=logits.device)
        while True:
            tokens = draws.draw(logits, rows)
            left = draws.left()
            if draws.full or not left:
                break
            if draws.few(left):
                going = ~draws.ended
                draws.keep(going)
                rows, tokens = rows[going], tokens[going]
            distinct, rows, shared_by = torch.unique(
                rows * words + tokens, return_inverse=True, return_counts=True
            )
            parents, tokens = distinct // words, distinct % words
            if int((shared_by[rows] * ~draws.ended).max()) == 1:  # none that goes on shares its row
                del logits  # a table of the vocabulary
                draws.hold_one_each(rows, len(distinct))
                decoding.select(parents)
                self._decode(decoding, draws, tokens)
                break
            logits = decoding.extend(parents, tokens)
        return draws.responses()

    def _decode(self, decoding: Decoding, draws: Draws, tokens: Tensor) -> None:
        """Draw all that is left to draw, where each row is of one response; tokens (rows,): what was
        drawn last."""
        decode_apart(decoding, draws, tokens)

    def batches(self, examples: Sequence[Example], max_tokens: int) -> list[MiniBatch]:
        """Rows of prefix trees, as long as it pays to share."""
        return [collate(rows, self.pad_id) for rows in microbatches(examples, max_tokens)]

    def score(self, batch: MiniBatch, temperature: float, floor: float = 0.0) -> Scores:
        """Only response positions get logits, a chunk at a time, recomputed in the backward pass: a
        vocabulary of 151,936 over every position would not fit a GPU."""
        hidden = self.model.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state
        mask, targets = batch.response_mask, batch.targets[batch.response_mask]
        hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, batch.sources[mask])
        output = OutputLayer(self.model)
        chunk = max(1, LOGIT_CHUNK_ELEMENTS // output.words)
        chunks = list(zip(hidden.split(chunk), targets.split(chunk), strict=True))
        settings = temperature, floor
        found = [
            checkpoint(_likelihood, output, *one, *settings, use_reentrant=False)
            for one in chunks[:-1]
        ]
        # The backward pass begins with the last chunk: nothing to recompute.
        found.append(_likelihood(output, *chunks[-1], *settings))
        return Scores.at(mask, map(torch.cat, zip(*found, strict=True)))


def _likelihood(
    output: OutputLayer, hidden: Tensor, targets: Tensor, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    return output.likelihood(hidden, targets, temperature, floor)
