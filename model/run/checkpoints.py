"""Checkpoints that are complete or not there.

Each is a folder, written under a hidden name on the same file system, synced and then renamed, with a
`manifest.json` of the size and SHA-256 of every other file in it. A process that dies anywhere leaves
the checkpoints that were there before. Reading one executes nothing: it is safetensors and JSON.

    checkpoints = Checkpoints(run_dir / "checkpoints", keep=2)
    checkpoints.save(100, fill, size, best=60)  # step_000100; `latest` names it, `best` step_000060
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from os.path import isfile
from pathlib import Path, PurePath

import torch
from safetensors import SafetensorError, safe_open

from model.run.layout import BEST, LATEST
from utils.files import hidden, is_litter, replace_text, sync
from utils.tensor_file import save_tensors

MANIFEST, VALUES, TENSORS = "manifest.json", "trainer.json", "trainer.safetensors"
TENSOR = "tensor "  # in front of a tensor's name, where trainer.json leaves one out
SLACK = 2**20  # bytes beside weights and state: tokenizer, configuration, manifest


# Writes into the folder that it is given. Returns, by name, the SHA-256 of files that it knows already:
# the others are read for it.
Fill = Callable[[Path], Mapping[str, str]]


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; the message is one sentence for the user."""


class Checkpoints:
    """The `step_NNNNNN` folders of one run, and the text files `latest` and `best`, which name two of
    them. keep: how many of the newest are kept; the best is kept too."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """The folder of the checkpoint of a step, whether it is there or not."""
        return self.folder / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """The steps of all folders that are named as checkpoints, ascending. A damaged one counts."""
        found = (path.name.removeprefix("step_") for path in self.folder.glob("step_*"))
        numbers = sorted({int(step) for step in found if step.isdecimal()})
        return [step for step in numbers if self.path(step).is_dir()]

    def save(self, step: int, fill: Fill, size: int, best: int | None) -> Path:
        """Write the checkpoint of `step` and settle on it. fill: writes about `size` bytes. best: the step
        of the best checkpoint. Raises CheckpointError; the checkpoints before are still there then."""
        folder = self.path(step)
        try:
            self.require_room(size)
            _write(folder, fill)
            self.settle(step, best)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: cannot be written ({error})") from error
        return folder

    def require_room(self, size: int) -> None:
        """Raise CheckpointError unless the file system has `size` free bytes, and `SLACK` more."""
        free = shutil.disk_usage(self.folder).free
        if free < size + SLACK:
            raise CheckpointError(
                f"{self.folder}: a checkpoint needs {(size + SLACK) / 2**20:,.0f} MiB of disk, and "
                f"{free / 2**20:,.0f} MiB are free"
            )

    def settle(self, latest: int, best: int | None) -> None:
        """Have `latest` and `best` name these steps, each the old one or the new one at any moment. Delete
        older checkpoints, and what a process that died has left half written or half deleted. What
        cannot be deleted now is tried again the next time."""
        replace_text(self.folder / LATEST, self.path(latest).name)
        if best is None or not self.path(best).is_dir():
            (self.folder / BEST).unlink(missing_ok=True)
        else:
            replace_text(self.folder / BEST, self.path(best).name)
        sync(self.folder)
        for old in self.steps()[: -self.keep]:
            if old != best:
                with suppress(OSError):
                    self.path(old).rename(hidden(self.path(old)))
        for name in ("step_*", LATEST, BEST):
            for leftover in self.folder.glob(hidden(Path(name)).name):
                if leftover.is_dir() and not leftover.is_symlink():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest complete checkpoint, None if there is none, and a sentence on each newer one."""
        candidates = [(step, self.path(step)) for step in self.steps()]
        copied = self.copied_step()
        if copied is not None:
            candidates.append((copied, self.folder / BEST))
        candidates.sort(
            key=lambda candidate: candidate[0], reverse=True
        )  # a copy after its original
        skipped: list[str] = []
        for _, folder in candidates:
            reason = damage(folder)
            if reason is None:
                return folder, skipped
            skipped.append(f"{folder}: skipped, {reason}")
        return None, skipped

    def copied_step(self) -> int | None:
        """The step of the checkpoint that `best` holds where it is a folder, else None. In older versions
        it was a link, of which a copy of the run that follows links makes a folder."""
        try:
            if (self.folder / BEST).is_symlink():
                return None
            step = load_values(self.folder / BEST)["step"]
        except (CheckpointError, KeyError):
            return None
        return step if type(step) is int else None

    def unfold_best(self, aside: Callable[[], Path]) -> None:
        """Where `best` is a folder, make room for the file. A copy is deleted where the checkpoint is there
        too, and takes the checkpoint's name where that is missing or damaged. Anything else is moved
        into the folder that `aside` makes."""
        copy, step = self.folder / BEST, self.copied_step()
        if copy.is_symlink() or not copy.is_dir():
            return
        if step is None or damage(copy) is not None:
            move(copy, aside())
            return
        original = self.path(step)
        if _repeats(copy, original):
            shutil.rmtree(copy)
            return
        if original.exists() and damage(original) is not None:
            move(original, aside())
        if original.exists():
            move(copy, aside())
        else:
            copy.rename(original)


def pointed_at(path: Path) -> Path:
    """The checkpoint that the file `latest` or `best` names; any other path itself. Raises
    CheckpointError."""
    if path.name not in (LATEST, BEST) or not isfile(path):
        return path
    try:
        return path.parent / path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint of a run, or looks like one; False for what can be no folder."""
    return isfile(Path(folder) / VALUES)


def move(file: Path, folder: Path) -> None:
    """Take a file or a folder out of the way, into another folder."""
    shutil.move(file, folder / file.name, copy_function=shutil.copyfile)


def _repeats(copy: Path, original: Path) -> bool:
    """Whether a complete checkpoint's original is complete too, and the copy has nothing that it lacks,
    litter aside."""
    if damage(original) is not None:
        return False
    manifest = (original / MANIFEST).read_bytes()
    listed = {MANIFEST, *json.loads(manifest)}
    found = {path.relative_to(copy).as_posix() for path in _files(copy)}
    return found <= listed and (copy / MANIFEST).read_bytes() == manifest


def _files(folder: Path) -> list[Path]:
    """What a folder holds, litter aside."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not any(map(is_litter, path.relative_to(folder).parts))]


def _write(folder: Path, fill: Fill) -> None:
    """Make a checkpoint that is not there before it is complete. Raises OSError or SafetensorError."""
    partial = hidden(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(exist_ok=True)  # litter may have kept it
        known = fill(partial)
        files = _files(partial)
        manifest = {
            name: [path.stat().st_size, known.get(name) or _digest(path)]
            for name, path in ((path.relative_to(partial).as_posix(), path) for path in files)
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (*files, partial / MANIFEST, partial):
            sync(path)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, in words; None if it is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (int(size), str(written)) for name, (size, written) in manifest.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return f"its {MANIFEST} is missing or unreadable"
    for name in (VALUES, TENSORS):
        if name not in expected:
            return f"its {MANIFEST} lists no {name}"
    for name, (size, written) in expected.items():
        file = folder / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            return f"its {MANIFEST} lists {name}, which is outside of it"
        try:
            found = file.stat().st_size
            if not file.is_file():
                return f"its {name} is no file"
            if found != size:
                return f"its {name} has {found} bytes instead of {size}"
            if _digest(file) != written:
                return f"its {name} is not what was written"
        except (OSError, ValueError) as error:
            return f"its {name} cannot be read ({getattr(error, 'strerror', error)})"
    return None


def save_state(folder: Path, state: Mapping) -> dict[str, str]:
    """Write nested dicts of JSON's types and tensors: the tensors as safetensors, the rest as JSON. The
    SHA-256 of the tensors' file, by its name."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(value, name: str):
        """`value` in JSON's types, each tensor replaced by its name. name: the path to the value."""
        if isinstance(value, torch.Tensor):
            tensors[name] = value
            return TENSOR + name
        if isinstance(value, Mapping):
            return {
                str(key): plain(inner, f"{name}/{key}".lstrip("/")) for key, inner in value.items()
            }
        return value

    text = json.dumps(plain(state, ""), ensure_ascii=False)
    written = save_tensors(tensors, folder / TENSORS)
    (folder / VALUES).write_text(text + "\n", encoding="utf-8")
    return {TENSORS: written}


def load_values(folder: Path) -> dict:
    """What `save_state` wrote, with the tensors' names in their place. Raises CheckpointError."""
    try:
        values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / VALUES}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{folder / VALUES}: must be a JSON object")
    return values


def load_state(folder: Path) -> dict:
    """What `save_state` wrote, on the CPU; keys are strings. Raises CheckpointError."""
    try:
        with safe_open(folder / TENSORS, "pt") as file:  # copies: the file itself may be deleted
            tensors = {TENSOR + name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / TENSORS}: cannot be read ({error})") from error

    def whole(value):
        """`value` with each name of a tensor replaced by the tensor."""
        if isinstance(value, str) and value in tensors:
            return tensors[value]
        if isinstance(value, dict):
            return {key: whole(inner) for key, inner in value.items()}
        return value

    return whole(load_values(folder))


def state_size(state: Mapping) -> int:
    """Bytes of the tensors in nested dicts."""
    return sum(
        value.nbytes if isinstance(value, torch.Tensor) else state_size(value)
        for value in state.values()
        if isinstance(value, (torch.Tensor, Mapping))
    )


def _digest(file: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
