"""The learning rate of a step."""


def learning_rate(step: int, peak: float, warmup: int, hold: int, half_life: float) -> float:
    """Rises linearly to `peak` over `warmup` steps, stays there, and after step `hold` halves every
    `half_life` steps (0: never). Steps count from 1. It depends on the step alone, not on how many
    there will be, so that a longer run begins exactly as a shorter one does."""
    rise = min(1.0, step / warmup) if warmup else 1.0
    decay = 0.5 ** (max(0, step - hold) / half_life) if half_life else 1.0
    return peak * rise * decay
