"""Supervised training on texts: what an embedded policy begins with, and what experiments prepare."""

from collections.abc import Iterable, Sequence

import torch

from custom_types import Policy, Prompt

IGNORED = -100  # the label that transformers' loss leaves out


def train_on_texts(
    policy: Policy,
    batches: Iterable[Sequence[tuple[Prompt, str]]],
    rates: Iterable[float],
    max_grad_norm: float = float("inf"),
) -> float:
    """Train in place, one AdamW step for each batch of prompts with their responses, at the next of the
    learning rates; the last loss, in nats a token."""
    model = policy.model
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    loss = torch.zeros(())
    model.train()
    for texts, rate in zip(batches, rates, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        ids, labels = _pad(texts, policy)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        if max_grad_norm < float("inf"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _pad(texts: Sequence[tuple[Prompt, str]], policy: Policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels, (batch, time) int64, where the model is; prompts and pads are not
    learned."""
    prompts = [list(prompt.ids) for prompt, _ in texts]
    responses = [
        [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], policy.stop_ids[0]]
        for _, text in texts
    ]
    pairs = list(zip(prompts, responses, strict=True))
    width = max(len(prompt) + len(response) for prompt, response in pairs)
    ids, labels = [], []
    for prompt, response in pairs:
        padding = width - len(prompt) - len(response)
        ids.append(prompt + response + [policy.pad_id] * padding)
        labels.append([IGNORED] * len(prompt) + response + [IGNORED] * padding)
    device = policy.model.device
    return torch.tensor(ids, device=device), torch.tensor(labels, device=device)
