"""What `--resume` means: arguments go in; the run, its checkpoint and the arguments it has come out.

Nothing is written here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from model.args import CHANGEABLE, NEWEST, ArgumentError, AZRArgs, given_values
from model.flags import flag_name, is_word, shown
from model.policy.language import same_model
from model.run.checkpoints import Checkpoints, damage, load_values, pointed_at
from model.run.directory import run_path
from model.run.finished import FinishedRun
from model.run.layout import CHECKPOINTS, CONFIG
from model.run.logs import log_damage
from model.run.rows import RunDirectoryError, arguments


@dataclass(frozen=True)
class Resumption:
    """A run to continue.

    checkpoint: where to continue from; None where the run has none yet and starts from step 0. step:
    the checkpoint's, or 0. saved: the arguments of the run; None where it did not get that far.
    skipped: a sentence on each newer checkpoint that is damaged, and on a damaged config.json.
    """

    run_dir: Path
    checkpoint: Path | None = None
    step: int = 0
    saved: dict | None = None
    skipped: tuple[str, ...] = ()


def find_resumption(args: AZRArgs) -> Resumption:
    """The run and the checkpoint that `args.resume` means. Raises RunDirectoryError, also where the
    logs are not those that the checkpoint was written beside, and CheckpointError."""
    run_dir, checkpoint, skipped = _find_checkpoint(args)
    config = None
    try:
        if (run_dir / CONFIG).exists():
            config = FinishedRun(run_dir).config["args"]
    except RunDirectoryError as error:
        if checkpoint is None:  # nothing else knows what run this is
            raise
        skipped.append(f"{error}; the arguments are the checkpoint's")
    where = f"{run_dir}/{CONFIG}"
    if checkpoint is None:
        if config is not None:
            arguments(config, where)
        return Resumption(run_dir, saved=config)
    values = load_values(checkpoint)
    saved = _with_changes(values["args"], config or {}, where)
    reason = log_damage(run_dir, values["recorder"].get("logs", {}), values["step"])
    if reason is not None:
        raise RunDirectoryError(reason)
    return Resumption(run_dir, checkpoint, values["step"], saved, tuple(skipped))


def _find_checkpoint(args: AZRArgs) -> tuple[Path, Path | None, list[str]]:
    """The folder of the run, the checkpoint or None where it has none yet, and a sentence on each newer
    checkpoint that is damaged. Raises RunDirectoryError and CheckpointError."""
    assert args.resume is not None
    flag = "--resume" if args.resume == NEWEST else f"--resume {args.resume}"
    named = run_path(args) if args.run_dir or args.run_name else None
    if args.resume != NEWEST:
        chosen = pointed_at(Path(args.resume).resolve())
    elif named is not None:
        chosen = named
    else:
        raise RunDirectoryError(f"{flag}: needs --run-dir, --run-name or the path of a checkpoint")
    skipped: list[str] = []
    checkpoint: Path | None
    if args.resume == NEWEST or (chosen / CHECKPOINTS).is_dir():
        run_dir = chosen
        checkpoint, skipped = Checkpoints(run_dir / CHECKPOINTS, keep=1).newest()
        if checkpoint is None and skipped:
            raise RunDirectoryError(f"{flag}: no checkpoint is complete: {'; '.join(skipped)}")
    else:
        run_dir, checkpoint, reason = chosen.parent.parent, chosen, damage(chosen)
        if reason is None and chosen.parent.name != CHECKPOINTS:
            reason = "it is not in the checkpoints folder of its run"
        if reason is not None:
            raise RunDirectoryError(f"{flag}: must be a checkpoint or a run directory; {reason}")
    if named is not None and named.resolve() != run_dir.resolve():
        raise RunDirectoryError(
            f"{flag}: continues the run in {run_dir}; --run-dir must be that or left out"
        )
    return run_dir, checkpoint, skipped


def _with_changes(saved: dict, config: dict, where: str) -> dict:
    """The arguments that a checkpoint saved, but the changeable ones as config.json has them: the last
    command that wrote it decided them. Raises RunDirectoryError where another one differs."""
    for name, value in config.items():
        if name not in CHANGEABLE and name in saved and saved[name] != value:
            raise RunDirectoryError(
                f"{where}: has {name} {value}, and must have {saved[name]}, as the checkpoint has"
            )
    changed = saved | {name: value for name, value in config.items() if name in CHANGEABLE}
    arguments(changed, where)
    return changed


def resumed_args(argv: Sequence[str], saved: Mapping, run_dir: str, steps: int) -> AZRArgs:
    """The arguments `saved` by the run in `run_dir`, which has done `steps` steps, with what a command
    line changes of them. Raises ArgumentError for a flag that would make it another run."""
    given = given_values(argv)
    odd = {item.name for item in fields(AZRArgs)} ^ set(saved)
    if odd:
        raise ArgumentError(
            f"--resume: {run_dir} is a run of another version of this program; they differ in "
            f"{', '.join(sorted(odd))}"
        )
    if "model" in given and same_model(given["model"], saved["model"]):
        del given["model"]  # by another path
    for item in fields(AZRArgs):
        name, was = item.name, saved[item.name]
        if is_word(item, given.get(name)):
            del given[name]  # it is left to the run, which has decided it or will
        if given.get(name, was) != was and name not in CHANGEABLE:
            raise ArgumentError(
                f"{flag_name(name)} {shown(given[name])}: must be {shown(was)}, as in the run that goes on"
            )
    place = dict(run_dir=run_dir, run_name=None, resume=given["resume"])
    args = AZRArgs(**{**saved, **given, **place})
    if args.total_steps < steps:
        raise ArgumentError(
            f"--total-steps {args.total_steps}: must be at least {steps}, the steps that the run has "
            f"done"
        )
    return args
