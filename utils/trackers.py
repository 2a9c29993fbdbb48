"""Weights & Biases beside `metrics.jsonl`, when asked for. A tracker never stops or delays a run."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from model.args import AZRArgs


class WandbTracker:
    """Logs to wandb, offline unless a key is set; the first failure is one warning and ends it."""

    def __init__(self, args: AZRArgs, run_dir: Path):
        self._run = None
        if args.wandb:
            self._try(self._start, args, run_dir)

    def _start(self, args: AZRArgs, run_dir: Path) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or (
            "online" if os.environ.get("WANDB_API_KEY") else "offline"
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "absolute-zero-prime-inversion"),
            name=run_dir.name,
            dir=run_dir,
            mode=mode,
            config=args.as_dict(),
        )

    def log(self, metrics: Mapping[str, float]) -> None:
        """One step's metrics."""
        if self._run is not None:
            self._try(self._run.log, dict(metrics), step=metrics["step"])

    def close(self) -> None:
        """Finish the wandb run."""
        if self._run is not None:
            self._try(self._run.finish)

    def _try(self, function, *args, **kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # whatever a tracker raises, training goes on
            self._run = None
            warnings.warn(
                f"wandb stopped ({type(error).__name__}: {error}); metrics.jsonl goes on",
                stacklevel=2,
            )
