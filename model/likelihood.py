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

    With p the probabilities, y the target, m the sum of p over the likely words and H their entropy:

        ∂ log p_y / ∂z_i = [i = y] - p_i
        ∂ H / ∂z_i       = -p_i / m (log p_i - log m + H) where i is likely, otherwise 0
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, floor: float):
        ctx.set_materialize_grads(False)
        z = scaled(logits, temperature)
        # log_softmax adds up all words one after the other: not exact enough for 49,152 of them.
        normaliser = z.logsumexp(-1, keepdim=True)
        p = (z - normaliser).exp_()
        mass, above = torch.ones_like(normaliser), None
        if floor:
            likely = p.masked_fill(_unlikely(z, normaliser, floor), 0)
            mass = likely.sum(-1, keepdim=True)
            above = mass.log() + normaliser - likely.mul_(z).sum(-1, keepdim=True) / mass
        entropy = normaliser - p.mul_(z).sum(-1, keepdim=True)
        above = entropy.clone() if above is None else above
        ctx.temperature, ctx.floor, ctx.dtype = temperature, floor, logits.dtype
        ctx.save_for_backward(z, targets, normaliser, mass, above)
        logprob = z.gather(-1, targets[:, None]) - normaliser
        results = logprob.squeeze(-1), entropy.squeeze(-1), above.squeeze(-1)
        ctx.mark_non_differentiable(results[1])
        return results

    @staticmethod
    def backward(ctx, by_logprob: Tensor | None, _, by_above: Tensor | None):
        z, targets, normaliser, mass, above = ctx.saved_tensors
        by_logprob = torch.zeros_like(mass) if by_logprob is None else by_logprob[:, None]
        gradient = (z - normaliser).exp_()
        if by_above is None:
            gradient.mul_(-by_logprob)
        else:
            factor = z + (above - mass.log() - normaliser)
            factor.mul_(-by_above[:, None] / mass)
            if ctx.floor:
                factor.masked_fill_(_unlikely(z, normaliser, ctx.floor), 0)
            gradient.mul_(factor.sub_(by_logprob))
        gradient.scatter_add_(-1, targets[:, None], by_logprob)
        return gradient.div_(ctx.temperature).to(ctx.dtype), None, None, None


def _unlikely(z: Tensor, normaliser: Tensor, floor: float) -> Tensor:
    """Words of a probability below the floor, but never a row's most likely one."""
    return z < torch.minimum(z.amax(-1, keepdim=True), normaliser + math.log(floor))
