"""Checkpoints that are complete or not there.

Each is a folder, written under a hidden name on the same file system, synced and then renamed, with a
`manifest.json` of the size and SHA-256 of every other file in it. A process that dies anywhere leaves
the checkpoints that were there before. Reading one executes nothing: it is safetensors and JSON.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

MANIFEST, VALUES, TENSORS = "manifest.json", "trainer.json", "trainer.safetensors"
TENSOR = "tensor "  # in front of a tensor's name, where trainer.json leaves one out
SLACK = 2**20  # bytes beside weights and state: tokenizer, configuration, manifest


class CheckpointError(Exception):
    """A checkpoint that cannot be written; the message is one sentence for the user."""


class Checkpoints:
    """`step_NNNNNN` folders of one run, the text file `latest` and the link `best`."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """Of every checkpoint that has its name, the first one first."""
        found = (path.name.removeprefix("step_") for path in self.folder.glob("step_*"))
        numbers = sorted({int(step) for step in found if step.isdecimal()})
        return [step for step in numbers if self.path(step).is_dir()]

    def save(self, step: int, fill: Callable[[Path], None], size: int, best: int | None) -> Path:
        """Write the checkpoint of `step` and settle on it. fill: writes into the folder that it is given
        about `size` bytes. Raises CheckpointError; the ones before are still there then."""
        folder = self.path(step)
        try:
            self.require_room(size)
            _write(folder, fill)
            self.settle(step, best)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{folder}: cannot be written ({error})") from error
        return folder

    def require_room(self, size: int) -> None:
        """Raise CheckpointError unless the file system has `size` free bytes, and some."""
        free = shutil.disk_usage(self.folder).free
        if free < size + SLACK:
            raise CheckpointError(
                f"{self.folder}: a checkpoint needs {(size + SLACK) / 2**20:,.0f} MiB of disk, and "
                f"{free / 2**20:,.0f} MiB are free"
            )

    def settle(self, latest: int, best: int | None) -> None:
        """Point `latest` and `best` at these steps, each at the old one or the new one at any moment,
        and delete what is neither among the newest nor the best, nor complete."""
        replace_text(self.folder / "latest", self.path(latest).name)
        link = self.folder / "best"
        if best is None or not self.path(best).is_dir():
            link.unlink(missing_ok=True)
        else:
            _hidden(link).unlink(missing_ok=True)
            _hidden(link).symlink_to(self.path(best).name)
            os.replace(_hidden(link), link)
        _sync(self.folder)
        for old in self.steps()[: -self.keep]:
            if old != best:
                self.path(old).rename(_hidden(self.path(old)))
        for hidden in self.folder.glob(".*.partial"):
            whole = hidden.is_dir() and not hidden.is_symlink()
            shutil.rmtree(hidden) if whole else hidden.unlink()

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest complete checkpoint, None if there is none, and a sentence on each newer one."""
        skipped = []
        for step in reversed(self.steps()):
            reason = damage(self.path(step))
            if reason is None:
                return self.path(step), skipped
            skipped.append(f"{self.path(step)}: skipped, {reason}")
        return None, skipped

    def move(self, steps: Iterable[int], folder: Path) -> None:
        """Take checkpoints out of the way, into another folder."""
        for step in steps:
            shutil.move(self.path(step), folder / self.path(step).name)


def _hidden(path: Path) -> Path:
    """Where it is while it is being written or deleted."""
    return path.with_name(f".{path.name}.partial")


def replace_text(file: Path, text: str) -> None:
    """Make a file a line of text, or several: it holds the old one or the new one at any moment."""
    _hidden(file).write_text(text + "\n", encoding="utf-8")
    _sync(_hidden(file))
    os.replace(_hidden(file), file)


def _write(folder: Path, fill: Callable[[Path], None]) -> None:
    hidden = _hidden(folder)
    shutil.rmtree(hidden, ignore_errors=True)
    try:
        hidden.mkdir()
        fill(hidden)
        files = sorted(path for path in hidden.rglob("*") if path.is_file())
        manifest = {
            str(path.relative_to(hidden)): [path.stat().st_size, _digest(path)] for path in files
        }
        (hidden / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for path in (*files, hidden / MANIFEST, hidden):
            _sync(path)
        hidden.rename(folder)
        _sync(folder.parent)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def damage(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, in words; None if it is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        expected = {name: (int(size), str(digest)) for name, (size, digest) in manifest.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return f"its {MANIFEST} is missing or unreadable"
    for name in (VALUES, TENSORS):
        if name not in expected:
            return f"its {MANIFEST} lists no {name}"
    for name, (size, digest) in expected.items():
        file = folder / name
        try:
            found = file.stat().st_size
            if found != size:
                return f"its {name} has {found} bytes instead of {size}"
            if _digest(file) != digest:
                return f"its {name} is not what was written"
        except OSError as error:
            return f"its {name} cannot be read ({error.strerror})"
    return None


def save_state(folder: Path, state: Mapping) -> None:
    """Write nested dicts of JSON's types and tensors: the tensors as safetensors, the rest as JSON."""
    tensors: dict[str, torch.Tensor] = {}

    def plain(value, name: str):
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous()
            return TENSOR + name
        if isinstance(value, Mapping):
            return {str(key): plain(own, f"{name}/{key}".lstrip("/")) for key, own in value.items()}
        return value

    text = json.dumps(plain(state, ""), ensure_ascii=False)
    save_file(tensors, folder / TENSORS)
    (folder / VALUES).write_text(text + "\n", encoding="utf-8")


def load_values(folder: Path) -> dict:
    """What `save_state` wrote, with the names of its tensors in their place."""
    return json.loads((folder / VALUES).read_text(encoding="utf-8"))


def load_state(folder: Path) -> dict:
    """What `save_state` wrote, on the CPU; keys are strings."""
    with safe_open(folder / TENSORS, "pt") as file:  # copies: the file itself may be deleted
        tensors = {TENSOR + name: file.get_tensor(name).clone() for name in file.keys()}

    def whole(value):
        if isinstance(value, str) and value in tensors:
            return tensors[value]
        return {key: whole(own) for key, own in value.items()} if isinstance(value, dict) else value

    return whole(load_values(folder))


def state_size(state: Mapping) -> int:
    """Bytes of the tensors in nested dicts."""
    return sum(
        value.nbytes if isinstance(value, torch.Tensor) else state_size(value)
        for value in state.values()
        if isinstance(value, (torch.Tensor, Mapping))
    )


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Have the disk keep what was written to a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
