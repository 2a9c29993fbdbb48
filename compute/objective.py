"""Log-probabilities and advantages in, the scalar to maximise out. Pure.

Per response token, with ρ = exp(new - old) of the same stored token (arXiv 1707.06347, eq. 7, with
the advantage of the token's whole response):

    min(A·ρ, A·clip(ρ, 1 - clip_low, 1 + clip_high))

averaged over the tokens of each response and then over responses ("sequence", the paper), or over
all tokens ("token", the AZR code). With ρ = 1 its gradient is A·∇log π, plain REINFORCE; where a
good token (A > 0) is already 1 + clip_high times as likely, or a bad one 1 - clip_low times, its
gradient is 0. `loss = -objective`.
"""

import torch
from torch import Tensor


def aggregate_tokens(
    values: Tensor,
    response_mask: Tensor,
    aggregate: str = "sequence",
    denominator: float | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean of `values` (batch, time) over the mask, as a scalar.

    aggregate: "sequence" weighs responses equally, "token" weighs tokens equally. denominator: how
    many responses (or tokens) the mean is over, if this batch is only one of several; None counts
    those of this batch. weights: (batch,) how many times each row counts, None for once. Rows without
    a response token count for nothing. Values outside the mask are not read, whatever they are.
    """
    values = torch.where(response_mask, values, 0.0)
    lengths = response_mask.sum(1)
    if aggregate == "sequence":
        totals, counts = values.sum(1) / lengths.clamp(min=1), (lengths > 0).to(values.dtype)
    elif aggregate == "token":
        totals, counts = values.sum(1), lengths.to(values.dtype)
    else:
        raise ValueError(f'aggregate must be "sequence" or "token", not {aggregate!r}')
    if weights is not None:
        totals, counts = weights * totals, weights * counts
    if denominator is not None:
        return totals.sum() / denominator
    return totals.sum() / (counts.sum() if counts.any() else 1)


def azr_loss(objective: Tensor, entropy_bonus: Tensor, entropy_coef: float) -> Tensor:
    """What is minimised: minus the objective, minus the weighted entropy bonus where there is one."""
    return -objective - entropy_coef * entropy_bonus if entropy_coef else -objective


def compute_azr_objective(
    new_logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    aggregate: str = "sequence",
    denominator: float | None = None,
    weights: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped objective, to be maximised, and its diagnostics.

    new_logprobs, old_logprobs: (batch, time) float, nats. advantages: (batch,) float.
    response_mask: (batch, time) bool. clip_low, clip_high, aggregate: see the top of this file.
    denominator, weights: see `aggregate_tokens`. counts: (batch,) how many sampled responses each row
    stands for, None for one each; unlike weights, they decide nothing but the diagnostics.
    Diagnostics, all detached, over the response tokens of these rows, whatever the objective is
    averaged over: `approx_kl`, the mean of ρ - 1 - log ρ, which estimates KL(old, new); `clip_ratio`,
    the share of tokens whose gradient the clip removes; `ratio_max`, the largest ρ; `tokens`, how many
    there are. Raises ValueError for other shapes.
    """
    batch, time = response_mask.shape
    if new_logprobs.shape != (batch, time) or old_logprobs.shape != (batch, time):
        raise ValueError(
            f"logprobs {new_logprobs.shape}, {old_logprobs.shape} for mask {(batch, time)}"
        )
    if advantages.shape != (batch,) or response_mask.dtype != torch.bool:
        raise ValueError(
            f"advantages {advantages.shape} for mask {(batch, time)} {response_mask.dtype}"
        )
    # Blank both before subtracting: -inf - -inf or NaN under the mask would poison the gradient.
    log_ratio = new_logprobs.masked_fill(~response_mask, 0) - old_logprobs.masked_fill(
        ~response_mask, 0
    )
    ratio = log_ratio.exp()
    advantage = advantages[:, None]
    unclipped = advantage * ratio
    clipped = advantage * ratio.clamp(1 - clip_low, 1 + clip_high)
    mean_over = response_mask, aggregate, denominator, weights
    over_tokens = response_mask, "token", None, counts
    objective = aggregate_tokens(torch.minimum(unclipped, clipped), *mean_over)
    with torch.no_grad():
        diagnostics = {
            "approx_kl": aggregate_tokens(ratio - 1 - log_ratio, *over_tokens),
            "clip_ratio": aggregate_tokens((clipped < unclipped).to(ratio.dtype), *over_tokens),
            "ratio_max": torch.where(response_mask, ratio, 0.0).max(),
            "tokens": response_mask.sum()
            if counts is None
            else response_mask.sum(1).to(counts) @ counts,
        }
    return objective, diagnostics
