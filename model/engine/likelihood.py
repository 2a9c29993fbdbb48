"""Logits in, log-probabilities and entropies out: the distribution that tokens are sampled from.

With z the logits divided by the temperature, the log-probability of token y is z_y - log Σ exp z_i:
`chosen_logprobs`, which both engines use, when they sample and when they score. The plain engine lets
autograd differentiate it (`likelihood`); the shared one has its gradient written out (`ChoiceLikelihood`),
because tables with an entry for each word of a large vocabulary are what an update spends most memory on:
two of them at a time instead of five.
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """z, in float32 at least: the distribution at a temperature is the softmax of it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


def log_normaliser(z: Tensor) -> Tensor:
    """log Σ exp z_i, with the last dimension kept. log_softmax adds up all words one after the other:
    not exact enough for 49,152 of them."""
    return z.logsumexp(-1, keepdim=True)


def chosen_logprobs(z: Tensor, tokens: Tensor, normaliser: Tensor) -> Tensor:
    """Log-probability (n,) of the tokens (n,) int64 that were chosen by z (n, vocabulary)."""
    return (z.gather(-1, tokens[:, None]) - normaliser).squeeze(-1)


def likelihood(
    logits: Tensor, targets: Tensor, temperature: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of logits (n, vocabulary) the log-probability of its target (n,); the entropy; and the
    entropy of the choice among the words whose probability is at least `floor`. All in nats, (n,),
    float32 at least, differentiable."""
    z = scaled(logits, temperature)
    normaliser = log_normaliser(z)
    logprobs, entropy = chosen_logprobs(z, targets, normaliser), _entropy(z)
    if not floor:
        return logprobs, entropy, entropy
    among_likely = z.masked_fill(_unlikely(z, normaliser, floor), -math.inf)
    return logprobs, entropy, _entropy(among_likely)


def _entropy(z: Tensor) -> Tensor:
    """Of the softmax of z, (n,): log Σ exp z_i - Σ p_i z_i."""
    probabilities = z.softmax(-1)
    return log_normaliser(z).squeeze(-1) - (probabilities * z.masked_fill(z.isinf(), 0)).sum(-1)


class ChoiceLikelihood(Function):
    """`likelihood` with its gradient written out; the entropy has none.

    With p the probabilities, y the target, q those of the choice among the likely words and H its
    entropy:

        ∂ log p_y / ∂z_i = [i = y] - p_i
        ∂ H / ∂z_i       = -q_i (log q_i + H)
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, floor: float):
        ctx.set_materialize_grads(False)
        z = scaled(logits, temperature)
        normaliser = likely_normaliser = log_normaliser(z)
        entropy = normaliser - (z - normaliser).exp_().mul_(z).sum(-1, keepdim=True)
        likely_entropy = entropy.clone()
        if floor:
            among_likely = z.masked_fill(_unlikely(z, normaliser, floor), -math.inf)
            likely_normaliser = log_normaliser(among_likely)
            q = among_likely.sub_(likely_normaliser).exp_()
            likely_entropy = likely_normaliser - q.mul_(z).sum(-1, keepdim=True)
        ctx.temperature, ctx.floor, ctx.dtype = temperature, floor, logits.dtype
        ctx.save_for_backward(z, targets, normaliser, likely_normaliser, likely_entropy)
        logprobs = chosen_logprobs(z, targets, normaliser)
        results = logprobs, entropy.squeeze(-1), likely_entropy.squeeze(-1)
        ctx.mark_non_differentiable(results[1])
        return results

    @staticmethod
    def backward(ctx, by_logprob: Tensor | None, _, by_likely_entropy: Tensor | None):
        z, targets, normaliser, likely_normaliser, likely_entropy = ctx.saved_tensors
        by_logprob = torch.zeros_like(likely_entropy) if by_logprob is None else by_logprob[:, None]
        gradient = (z - normaliser).exp_()
        if by_likely_entropy is None:
            gradient.mul_(-by_logprob)
        else:
            factor = z + (likely_entropy - likely_normaliser)
            factor.mul_(
                -by_likely_entropy[:, None] * (normaliser - likely_normaliser).exp()
            )  # q = p times that
            if ctx.floor:
                factor.masked_fill_(_unlikely(z, normaliser, ctx.floor), 0)
            gradient.mul_(factor.sub_(by_logprob))
        gradient.scatter_add_(-1, targets[:, None], by_logprob)
        return gradient.div_(ctx.temperature).to(ctx.dtype), None, None, None


def _unlikely(z: Tensor, normaliser: Tensor, floor: float) -> Tensor:
    """Words of a probability below the floor, never a row's most likely one."""
    return z < torch.minimum(z.amax(-1, keepdim=True), normaliser + math.log(floor))
