"""What `--resume` goes on with."""

from dataclasses import dataclass
from pathlib import Path

from model.args import CHANGEABLE, NEWEST, AZRArgs
from utils.checkpoints import Checkpoints, damage, load_values
from utils.run_directory import RunDirectoryError, read_config_if_any, run_path


@dataclass(frozen=True)
class Resumption:
    """A run to go on with.

    checkpoint: to go on from; None where the run has none yet and starts again. step: the
    checkpoint's, or 0. saved: the arguments it was started with; None where it did not get that far.
    skipped: a sentence on each newer checkpoint that is damaged.
    """

    run_dir: Path
    checkpoint: Path | None = None
    step: int = 0
    saved: dict | None = None
    skipped: tuple[str, ...] = ()


def find_resumption(args: AZRArgs) -> Resumption:
    """The run and the checkpoint that `args.resume` means. Raises RunDirectoryError."""
    flag = "--resume" if args.resume == NEWEST else f"--resume {args.resume}"
    named = run_path(args) if args.run_dir or args.run_name else None
    if args.resume == NEWEST and named is None:
        raise RunDirectoryError(f"{flag}: needs --run-dir, --run-name or the path of a checkpoint")
    chosen = named if args.resume == NEWEST else Path(args.resume).resolve()
    skipped: list[str] = []
    if args.resume == NEWEST or (chosen / "checkpoints").is_dir():
        run_dir = chosen
        checkpoint, skipped = Checkpoints(run_dir / "checkpoints", keep=1).newest()
        if checkpoint is None and skipped:
            raise RunDirectoryError(f"{flag}: no checkpoint is complete: {'; '.join(skipped)}")
    else:
        run_dir, checkpoint, reason = chosen.parent.parent, chosen, damage(chosen)
        if reason is None and chosen.parent.name != "checkpoints":
            reason = "it is not in the checkpoints folder of its run"
        if reason is not None:
            raise RunDirectoryError(f"{flag}: must be a checkpoint or a run directory; {reason}")
    if named is not None and named.resolve() != run_dir.resolve():
        raise RunDirectoryError(f"{flag}: goes on in {run_dir}; --run-dir must be that or left out")
    begun = read_config_if_any(run_dir).get("args")
    if checkpoint is None:
        return Resumption(run_dir, saved=begun)
    values = load_values(checkpoint)
    # What may change was last decided by the command that wrote config.json.
    changed = {name: value for name, value in (begun or {}).items() if name in CHANGEABLE}
    return Resumption(
        run_dir, checkpoint, values["step"], {**values["args"], **changed}, tuple(skipped)
    )
