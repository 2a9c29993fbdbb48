"""Writes, replaces, syncs and deletes files on whatever file system there is, beside whatever others
have left there.

No symbolic link is made, no permission is set, and no lock is needed. It is no error that a folder
cannot be synced, or that a file cannot be replaced at one blow. What systems and tools leave in a
folder by themselves is litter: it stands in nobody's way, and stays.
"""

import errno
import os
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError

# The errors of a file system that does not have an operation; a full or broken disk gives others.
UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# The errors of a folder that cannot be opened as a file can.
DENIED = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
# The errors that are about a file or a disk, and not, say, about a network.
OF_FILES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
    errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE,
}  # fmt: skip
# The errors of a file system that does not replace a file at one blow.
KEEPS_OLD = UNABLE | {errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY}

# Names that systems, network drives, editors and notebooks give; whatever is hidden is some tool's.
LITTER = (
    ".*", "*~", "~$*", "#*#", "*.bak", "*.swp", "*.swo", "thumbs.db", "ehthumbs*.db", "desktop.ini",
    "icon\r", "$recycle.bin", "system volume information", "lost+found", "__pycache__", "@eadir",
    "temporary items", "network trash folder",
)  # fmt: skip


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is left by a system or a tool, as `.DS_Store` and
    `notes.txt~` are."""
    return any(fnmatchcase(name.lower(), pattern) for pattern in LITTER)


def hidden(path: Path) -> Path:
    """Where a file or a folder is while it is being written or deleted."""
    return path.with_name(f".{path.name}.partial")


def replace_text(file: Path, text: str) -> None:
    """Write lines of text into a file, which holds the old text or the new text at any moment."""
    hidden(file).write_text(text + "\n", encoding="utf-8")
    sync(hidden(file))
    try:
        os.replace(hidden(file), file)
    except OSError as error:
        if error.errno not in KEEPS_OLD or file.is_dir():
            raise
        file.unlink(missing_ok=True)  # for a moment only the new file is there, by its hidden name
        hidden(file).rename(file)


def sync(path: Path) -> None:
    """Have the disk keep what was written to a file or a folder, where it can."""
    unable = UNABLE | DENIED if path.is_dir() else UNABLE
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in unable:
            raise


def sync_open(descriptor: int) -> None:
    """Have the disk keep what was written to an open file, whatever its name is by now."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it. Litter, and the folders it lies in, stay."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            if not is_litter(child.name):
                remove(child)
        with suppress(OSError):  # litter keeps it
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def forbidden(folder: Path) -> Path | None:
    """The first file in a folder that this process may not read, or the folder itself; None if it may
    read all of them. Some libraries say that such a file does not exist."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except PermissionError:
        return folder
    except OSError:
        return None
    return next((path for path in files if not os.access(path, os.R_OK)), None)


def file_error(error: BaseException | None) -> BaseException | None:
    """The first of an error and its causes that is about a file or a disk: full, not readable, or not
    what it should be. None where none is. Libraries in Rust say it in the text alone."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in OF_FILES or isinstance(error, SafetensorError) or "(os error" in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None
