"""What a run with adapters was begun with: digests of the frozen weights, the configuration and the
tokenizer, by which a run that goes on knows that they are still the same.

A checkpoint holds the adapters, not what they were trained beside: that is loaded again from the hub or
the folder that --model names, where it may have been overwritten since.
"""

import hashlib
import json
from collections.abc import Mapping

import torch

from model.policy.weights import PolicyError

PASSING = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}  # of a configuration
PARTS = {
    "weights": "its weights",
    "configuration": "its configuration",
    "tokenizer": "its tokenizer or chat template",
}


def origin(model, tokenizer) -> dict[str, str | None]:
    """A digest of each of `PARTS`, the precision of the weights, and the hub's revision where there is
    one. Costs a second for each 1 to 2 GB of weights, at the start of a run."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings = {k: v for k, v in model.config.to_diff_dict().items() if k not in PASSING}
    return {
        "weights": digest.hexdigest(),
        "precision": str(model.dtype),
        "configuration": _digest(settings),
        "tokenizer": _digest([_words(tokenizer), tokenizer.chat_template]),
        "revision": getattr(model.config, "_commit_hash", None),
    }


def require_same_origin(name: str, now: Mapping, then: Mapping) -> None:
    """Raise PolicyError where a run would go on with another model than it began with. Weights of another
    precision, of a GPU and of a CPU, are not compared."""
    compared = [
        part for part in PARTS if part != "weights" or now["precision"] == then["precision"]
    ]
    changed = [PARTS[part] for part in compared if now[part] != then[part]]
    if changed:
        revisions = then["revision"], now["revision"]
        moved = f" (revision {revisions[0]}, now {revisions[1]})" if any(revisions) else ""
        raise PolicyError(
            f"--model {name}: must be what the run began with{moved}; since then {' and '.join(changed)} "
            f"changed"
        )


def _words(tokenizer) -> object:
    """What decides how a text becomes tokens, in JSON's types."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return sorted(tokenizer.get_vocab().items())
    settings = json.loads(fast.to_str())
    return {key: own for key, own in settings.items() if key not in ("padding", "truncation")}


def _digest(value) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
