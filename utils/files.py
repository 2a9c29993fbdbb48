"""What this program does to files, where file systems differ in what they can, and what others leave
beside them.

No symbolic link is made, no permission is set, and no lock is needed. A folder that cannot be synced
and a file that cannot be replaced at one blow are no errors. What systems and tools leave in a folder
on their own is litter: it stands in nobody's way, and stays.
"""

import errno
import os
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError

# What a file system says that cannot do a thing at all; a full or broken disk says something else.
UNABLE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
# Of a folder that cannot be opened as a file can.
DENIED = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
OF_FILES = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
    errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE,
}  # fmt: skip
KEEPS_OLD = UNABLE | {errno.EEXIST, errno.EACCES, errno.EPERM, errno.EBUSY}

# Of systems, network drives, editors and notebooks; whatever is hidden is some tool's own.
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
    """Where it is while it is being written or deleted."""
    return path.with_name(f".{path.name}.partial")


def replace_text(file: Path, text: str) -> None:
    """Make a file a line of text, or several: it holds the old one or the new one at any moment."""
    hidden(file).write_text(text + "\n", encoding="utf-8")
    sync(hidden(file))
    try:
        os.replace(hidden(file), file)
    except OSError as error:
        if error.errno not in KEEPS_OLD or file.is_dir():
            raise
        file.unlink(missing_ok=True)  # for a moment there is the new one alone, by its hidden name
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
    """The same of a file that is open, whatever its name is by now."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNABLE:
            raise


def remove(path: Path) -> None:
    """Delete a file, or a folder with what is in it, but litter and the folders it lies in."""
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            if not is_litter(child.name):
                remove(child)
        with suppress(OSError):  # litter keeps it
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def forbidden(folder: Path) -> Path | None:
    """The first file in a folder that this process may not read, or the folder; None if there is none.
    Some libraries say that such a file does not exist."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except PermissionError:
        return folder
    except OSError:
        return None
    return next((path for path in files if not os.access(path, os.R_OK)), None)


def file_error(error: BaseException | None) -> BaseException | None:
    """Which of an error and its causes is about a file or a disk: that is full, may not be read, or is
    not what it should be. None where none is. Libraries in Rust say so in words of their own."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if number in OF_FILES or isinstance(error, SafetensorError) or "(os error" in str(error):
            return error
        error = error.__cause__ or error.__context__
    return None
