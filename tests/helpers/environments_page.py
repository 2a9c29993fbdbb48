"""The page of `utils/environments/`, whose programs tests run."""

import re

from constants import ROOT

PAGE = (ROOT / "utils" / "environments" / "README.md").read_text(encoding="utf-8")


def block_with(word: str) -> str:
    """The one Python program of the page that has a word."""
    (block,) = (b for b in re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S) if word in b)
    return block
