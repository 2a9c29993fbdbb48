"""Which policy a value of `--model` means: the language that its prompts are written in, and whether two
values mean the same one. Looks into local folders, and opens nothing but their config.json.
"""

import json
from os.path import isdir
from pathlib import Path

from model.presets import LANGUAGES, PRESETS, language_by_name


def language(model: str) -> str:
    """The prompt language of a policy: by its name if that is one of ours, else by what a local
    folder's config says; a chat model's for any other."""
    if model in LANGUAGES:
        return LANGUAGES[model]
    found = _configured_language(model)
    return found if found in PRESETS else language_by_name(model)


def same_model(one: str, other: str) -> bool:
    """Whether two values of --model mean one policy: the same text, or two paths of one folder."""
    if one == other:
        return True
    named = LANGUAGES.keys() & {one, other}
    return not named and isdir(one) and Path(one).resolve() == Path(other).resolve()


def _configured_language(model: str) -> str | None:
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("prompt_set") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None
