"""How sure a share of right answers is: its interval; and pass@k."""

from math import comb, sqrt

Z95 = 1.959963984540054  # of the standard normal distribution


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95% interval of a chance, given that a `share` of `n` trials succeeded; it may be a mean of
    shares. Source: Wilson, 1927. Raises ValueError if there was no trial, or for what is no share."""
    if n < 1 or not 0 <= share <= 1:
        raise ValueError(f"must be a share of at least one trial: {share} of {n}")
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of `k` answers is right, estimated without bias from `n` answers, if
    `correct` of them were right. Source: Chen et al., 2021 (arXiv 2107.03374). Raises ValueError unless
    0 <= correct <= n and 1 <= k <= n."""
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"must be k of n answers: n {n}, correct {correct}, k {k}")
    return 1 - comb(n - correct, k) / comb(n, k)
