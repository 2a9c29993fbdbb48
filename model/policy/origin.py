"""What a run with adapters began with: digests of the frozen weights, the configuration and the tokenizer.
A run that resumes compares them.

A checkpoint holds the adapters, not the frozen weights that they were trained beside. Those are loaded
from the hub or the folder that --model names, where they may have been overwritten since.
"""

import hashlib
import json
from collections.abc import Mapping

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model.policy.weights import PolicyError

# Settings of a configuration that may change without making another model of it.
PASSING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}
PARTS = {
    "weights": "its weights",
    "configuration": "its configuration",
    "tokenizer": "its tokenizer or chat template",
}


def origin(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    """A digest of each of `PARTS`, the precision of the weights, and the hub's revision if there is one.
    Costs a second for each 1 to 2 GB of weights, at the start of a run."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings = {
        name: value for name, value in model.config.to_diff_dict().items() if name not in PASSING
    }
    return {
        "weights": digest.hexdigest(),
        "precision": str(model.dtype),
        "configuration": _digest(settings),
        "tokenizer": _digest([_words(tokenizer), tokenizer.chat_template]),
        "revision": getattr(model.config, "_commit_hash", None),
    }


def require_same_origin(name: str, now: Mapping, then: Mapping) -> None:
    """Raise PolicyError if a run would resume with another model than it began with. Weights of different
    precisions, as a GPU and a CPU have them, are not compared."""
    compared = [
        part for part in PARTS if part != "weights" or now["precision"] == then["precision"]
    ]
    changed = [PARTS[part] for part in compared if now[part] != then[part]]
    if changed:
        before, after = then["revision"], now["revision"]
        moved = f" (revision {before}, now {after})" if before or after else ""
        raise PolicyError(
            f"--model {name}: must be what the run began with{moved}; since then {' and '.join(changed)} "
            f"changed"
        )


def _words(tokenizer: PreTrainedTokenizerBase) -> object:
    """What decides how a text becomes tokens, in JSON's types."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return sorted(tokenizer.get_vocab().items())
    settings = json.loads(fast.to_str())
    return {name: settings[name] for name in settings if name not in ("padding", "truncation")}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
