"""Where commands may write.

A command replaces what it made itself, which a mark in the file tells, and nothing else; and it writes
nothing into a run directory that does not belong there.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from model.flags import ArgumentError
from model.run.finished import is_run

PICTURE = "absolute-zero-prime-inversion"  # the `Software` of a PNG file of ours
PAGE = "<title>Self-play report: "
READ = 4096  # bytes of a file, in which a mark is


def output_file(given: str | Path, mark: str | None = None) -> Path:
    """The file that --output names, in a folder that can be written into. Raises ArgumentError where
    it is something that has not this mark, or belongs to a run."""
    path = _named(given)
    if not path.parent.is_dir():
        raise ArgumentError(f"--output {given}: must be in a folder that exists")
    _require_writable(path.parent, given)
    if not _is_free(path, mark):
        raise ArgumentError(f"--output {given}: must not exist{_but(mark)}")
    return path


def output_folder(given: str | Path, names: Sequence[str], mark: str | None = None) -> Path:
    """The folder for files of these names that --output names, made and written into before anything
    is measured for it. Raises ArgumentError where it holds one of them that has not this mark, or
    belongs to a run."""
    folder = _named(given)
    _require_writable(folder, given)
    taken = [name for name in names if not _is_free(folder / name, mark)]
    if taken:
        raise ArgumentError(
            f"--output {given}: must be a folder without {' and '.join(taken)}{_but(mark)}"
        )
    return folder


def require_own(file: Path, mark: str) -> Path:
    """The file itself, which nobody named. Raises ArgumentError where it has not this mark."""
    if not _is_free(file, mark):
        raise ArgumentError(f"{file}: must not exist{_but(mark)}; --output names another file")
    return file


def _named(given: str | Path) -> Path:
    """What --output names. Raises ArgumentError for nothing, which Python reads as the current folder."""
    if not str(given).strip():
        raise ArgumentError(f"--output {given!r}: must be a path")
    return Path(given)


def _but(mark: str | None) -> str:
    return "" if mark is None else ", unless this program made it"


def _require_writable(folder: Path, given: str | Path) -> None:
    runs = [one for one in (folder, *folder.resolve().parents) if is_run(one)]
    if runs:
        raise ArgumentError(
            f"--output {given}: must be outside of run directories, and {runs[0]} is one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ArgumentError(
            f"--output {given}: must be a folder that can be written ({error.strerror})"
        ) from error


def _is_free(file: Path, mark: str | None) -> bool:
    """Whether there is nothing, or what has the mark."""
    if not file.exists() and not file.is_symlink():
        return True
    if mark is None or not file.is_file():
        return False
    try:
        with open(file, "rb") as opened:
            return mark.encode() in opened.read(READ)
    except OSError:
        return False
