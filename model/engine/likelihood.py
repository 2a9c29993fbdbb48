"""Hidden states or logits in, log-probabilities and entropies out: the distribution that tokens are
sampled from.

With z the logits divided by the temperature, the log-probability of token y is z_y - log Σ exp z_i:
`chosen_logprobs`, which both engines use, when they sample and when they score. The plain engine lets
autograd differentiate it (`likelihood`); the shared one has its gradient written out (`ChoiceLikelihood`),
because tables with an entry for each word of a large vocabulary are what an update spends most memory on:
two of them at a time instead of five.

`OutputLayer` gives logits in float32 at least, also of bfloat16 factors: between 16 and 32 bfloat16 knows
only each eighth, and the sampler and the update would round to different ones.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd import Function


def scaled(logits: Tensor, temperature: float) -> Tensor:
    """z, in float32 at least: the distribution at a temperature is the softmax of it."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return z if temperature == 1 else z / temperature  # a table of the logits' size


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
        ctx.dtype = logits.dtype
        results, kept = _forward(ctx, scaled(logits, temperature), targets, temperature, floor)
        ctx.save_for_backward(*kept)
        return results

    @staticmethod
    def backward(ctx, *gradients: Tensor | None):
        by_logits = _backward(ctx, ctx.saved_tensors, *gradients)
        return by_logits.to(ctx.dtype), None, None, None


class HiddenLikelihood(Function):
    """`ChoiceLikelihood` of the logits that are `product(hidden, weight, bias)`: it has one table of them
    less, and their gradient gets as narrow as the factors before it is multiplied by them."""

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        floor: float,
    ):
        z = product(hidden, weight, bias).div_(temperature)
        results, kept = _forward(ctx, z, targets, temperature, floor)
        ctx.save_for_backward(hidden, weight, *kept)
        return results

    @staticmethod
    def backward(ctx, *gradients: Tensor | None):
        hidden, weight, *kept = ctx.saved_tensors
        of_hidden, of_weight, of_bias, *_ = ctx.needs_input_grad
        by_logits = _backward(ctx, kept, *gradients)
        by_bias = by_logits.sum(0) if of_bias else None
        by_logits = by_logits.to(hidden.dtype)
        return (
            by_logits.mm(weight) if of_hidden else None,
            by_logits.t().mm(hidden) if of_weight else None,
            by_bias,
            None,
            None,
            None,
        )


def _forward(ctx, z: Tensor, targets: Tensor, temperature: float, floor: float):
    """What `likelihood` returns, and what `_backward` is given again."""
    ctx.set_materialize_grads(False)
    normaliser = likely_normaliser = log_normaliser(z)
    entropy = normaliser - (z - normaliser).exp_().mul_(z).sum(-1, keepdim=True)
    likely_entropy = entropy.clone()
    if floor:
        among_likely = z.masked_fill(_unlikely(z, normaliser, floor), -math.inf)
        likely_normaliser = log_normaliser(among_likely)
        q = among_likely.sub_(likely_normaliser).exp_()
        likely_entropy = likely_normaliser - q.mul_(z).sum(-1, keepdim=True)
    ctx.temperature, ctx.floor = temperature, floor
    logprobs = chosen_logprobs(z, targets, normaliser)
    results = logprobs, entropy.squeeze(-1), likely_entropy.squeeze(-1)
    ctx.mark_non_differentiable(results[1])
    return results, (z, targets, normaliser, likely_normaliser, likely_entropy)


def _backward(ctx, kept, by_logprob: Tensor | None, _, by_likely_entropy: Tensor | None) -> Tensor:
    """The gradient by the logits, in z's type."""
    z, targets, normaliser, likely_normaliser, likely_entropy = kept
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
    return gradient.div_(ctx.temperature)


def _unlikely(z: Tensor, normaliser: Tensor, floor: float) -> Tensor:
    """Words of a probability below the floor, never a row's most likely one."""
    return z < torch.minimum(z.amax(-1, keepdim=True), normaliser + math.log(floor))


NARROW = torch.bfloat16, torch.float16
# Devices that multiply narrow factors to float32. The trace of --plan adds the one it stands on.
NARROW_PRODUCTS = {"cuda"}


class OutputLayer:
    """The output layer of a model while nobody changes its weights: (n, width) hidden states in, logits
    or what `likelihood` says of them out. The factors are those of autocast where it is on. Where a GPU
    has no narrow ones, and on a CPU, they are widened before they are multiplied.

    A layer that is more than a plain one, with an adapter for example, is called as it is. words: the
    size of the vocabulary.
    """

    def __init__(self, model):
        self._layer, kind = model.get_output_embeddings(), model.device.type
        self.words = getattr(self._layer, "out_features", None) or model.config.vocab_size
        self._is_plain = type(self._layer) is nn.Linear
        if not self._is_plain:
            return
        weight, autocast = self._layer.weight, torch.is_autocast_enabled(kind)
        self._dtype = torch.get_autocast_dtype(kind) if autocast else weight.dtype
        wide = torch.promote_types(self._dtype, torch.float32)
        self._factor = self._dtype if kind in NARROW_PRODUCTS else wide
        self._weight, self._bias = self._as_factor(weight), self._layer.bias

    def _as_factor(self, values: Tensor) -> Tensor:
        return values.to(self._dtype).to(self._factor)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, vocabulary), without gradient."""
        if not self._is_plain:
            return self._layer(hidden)
        return product(self._as_factor(hidden), self._weight, self._bias)

    def likelihood(
        self, hidden: Tensor, targets: Tensor, temperature: float, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`likelihood` of the logits, without a gradient of the entropy."""
        if not self._is_plain:
            return ChoiceLikelihood.apply(self._layer(hidden), targets, temperature, floor)
        factors = self._as_factor(hidden), self._weight, self._bias
        return HiddenLikelihood.apply(*factors, targets, temperature, floor)


def product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden (n, width) times weight (vocabulary, width), transposed, and bias: float32 at least, of
    factors of one type, which may be narrow on a GPU."""
    if hidden.dtype in NARROW:
        logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    elif torch.is_autocast_enabled(hidden.device.type):
        with torch.autocast(hidden.device.type, enabled=False):
            logits = torch.mm(hidden, weight.t())
    else:
        logits = torch.mm(hidden, weight.t())
    return logits if bias is None else logits.add_(bias)
