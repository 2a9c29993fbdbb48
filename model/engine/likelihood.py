"""Logits in, log-probabilities and entropies out: the distribution that tokens are sampled from.

Its gradient is written out, because tables with an entry for each word of a large vocabulary are what
an update spends most room on: two of them at a time instead of five.
"""

import math

import torch
from torch import Tensor
from torch.autograd import Function


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """What the distribution at a temperature is the softmax of, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature


class ChoiceLikelihood(Function):
    """Of each row of logits (n, vocabulary) the log-probability of its target; the entropy, which has
    no gradient; and the entropy of the choice among the words whose probability is at least `floor`,
    all in nats, (n,), float32 at least.

    With p the probabilities, y the target, q those of the choice among the likely words and H its
    entropy:

        ∂ log p_y / ∂z_i = [i = y] - p_i
        ∂ H / ∂z_i       = -q_i (log q_i + H)
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, floor: float):
        ctx.set_materialize_grads(False)
        z = scaled(logits, temperature)
        # log_softmax adds up all words one after the other: not exact enough for 49,152 of them.
        normaliser = likely_normaliser = z.logsumexp(-1, keepdim=True)
        entropy = normaliser - (z - normaliser).exp_().mul_(z).sum(-1, keepdim=True)
        above = entropy.clone()
        if floor:
            among = z.masked_fill(_unlikely(z, normaliser, floor), -math.inf)
            likely_normaliser = among.logsumexp(-1, keepdim=True)
            q = among.sub_(likely_normaliser).exp_()
            above = likely_normaliser - q.mul_(z).sum(-1, keepdim=True)
        ctx.temperature, ctx.floor, ctx.dtype = temperature, floor, logits.dtype
        ctx.save_for_backward(z, targets, normaliser, likely_normaliser, above)
        logprob = z.gather(-1, targets[:, None]) - normaliser
        results = logprob.squeeze(-1), entropy.squeeze(-1), above.squeeze(-1)
        ctx.mark_non_differentiable(results[1])
        return results

    @staticmethod
    def backward(ctx, by_logprob: Tensor | None, _, by_above: Tensor | None):
        z, targets, normaliser, likely_normaliser, above = ctx.saved_tensors
        by_logprob = torch.zeros_like(above) if by_logprob is None else by_logprob[:, None]
        gradient = (z - normaliser).exp_()
        if by_above is None:
            gradient.mul_(-by_logprob)
        else:
            factor = z + (above - likely_normaliser)
            factor.mul_(
                -by_above[:, None] * (normaliser - likely_normaliser).exp()
            )  # q = p times that
            if ctx.floor:
                factor.masked_fill_(_unlikely(z, normaliser, ctx.floor), 0)
            gradient.mul_(factor.sub_(by_logprob))
        gradient.scatter_add_(-1, targets[:, None], by_logprob)
        return gradient.div_(ctx.temperature).to(ctx.dtype), None, None, None


def _unlikely(z: Tensor, normaliser: Tensor, floor: float) -> Tensor:
    """Words of a probability below the floor, but never a row's most likely one."""
    return z < torch.minimum(z.amax(-1, keepdim=True), normaliser + math.log(floor))
