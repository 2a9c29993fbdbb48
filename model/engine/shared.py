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
from model.engine.decoding import prefill
from model.engine.likelihood import ChoiceLikelihood
from model.engine.protocol import Engine, Scores
from model.engine.sampling import responses, sample_tokens

LOGIT_CHUNK_ELEMENTS = 2**27  # 512 MiB of float32 logits at a time: 883 tokens of Qwen2.5
STAYING = 0.75  # of the rows in the model: when no more have yet to end, the others leave


class SharedEngine(Engine):
    """Samples and scores with prompts, and equal beginnings of responses, shared."""

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[tuple[int, ...]], uniform: Tensor, temperature: float
    ) -> list[Response]:
        """Rows that have the same tokens so far are one row of the model until they part. Rows that
        have ended leave it when they are enough: each time costs a copy of the cache."""
        device, (count, most) = self.model.device, uniform.shape
        stops = torch.tensor(self.stop_ids, device=device)
        place = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
        logits, decoding = prefill(self.model, list(place), self.pad_id, most)
        # Of each response that is held: its number, its row in the model, and whether it has ended.
        held = torch.arange(count, device=device)
        state = torch.tensor([place[prompt] for prompt in prompts], device=device)
        ended = torch.zeros_like(state, dtype=torch.bool)

        tokens = torch.full((count, most), self.pad_id, device=device)
        logprobs = torch.zeros(count, most, device=device)
        for step in range(most):
            words = logits.shape[-1]
            token, logprob = sample_tokens(logits, temperature, uniform[held, step], state)
            token = token.masked_fill(ended, self.pad_id)  # so that ended rows do not part
            tokens[held, step], logprobs[held, step] = token, logprob
            ended |= torch.isin(token, stops)
            going = ~ended
            left = int(going.sum())
            if step + 1 == most or not left:
                break
            if left <= STAYING * len(held):
                held, state, token, ended = (kept[going] for kept in (held, state, token, ended))
            distinct, state = torch.unique(state * words + token, return_inverse=True)
            logits = decoding.extend(distinct // words, distinct % words)
        return responses(tokens[:, : step + 1], logprobs[:, : step + 1], self.stop_ids)

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
        head = self.model.get_output_embeddings()
        words = getattr(head, "out_features", None) or self.model.config.vocab_size
        chunk = max(1, LOGIT_CHUNK_ELEMENTS // words)
        chunks = list(zip(hidden.split(chunk), targets.split(chunk), strict=True))
        settings = head, temperature, floor
        found = [
            checkpoint(_likelihood, *one, *settings, use_reentrant=False) for one in chunks[:-1]
        ]
        # The backward pass begins with the last chunk: nothing to recompute.
        found.append(_likelihood(*chunks[-1], *settings))
        return Scores.at(mask, map(torch.cat, zip(*found, strict=True)))


def _likelihood(
    hidden: Tensor, targets: Tensor, head, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    return ChoiceLikelihood.apply(head(hidden), targets, temperature, floor)
