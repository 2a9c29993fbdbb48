"""Packages that a run may need, without importing them."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """Where a package lies; None if it is not installed, a folder of its name notwithstanding."""
    found = find_spec(name)
    return Path(found.origin).parent if found and found.origin else None
