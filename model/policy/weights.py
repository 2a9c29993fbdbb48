"""A hub id or a local folder in, its model and tokenizer out, whole: every tensor of the model comes from
the files, every tensor of the files is in the model, and all of them can be trained.

transformers by itself would fill what it does not find with random numbers, and drop what has no place.
"""

from collections.abc import Collection
from os.path import isdir
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from constants import TINY_MODEL
from utils.text import one_line

HUB_TIMEOUT = 20  # seconds
MOST_NAMED = 3  # tensors, in a sentence about some of them
LONGEST_REASON = 160  # characters


class PolicyError(Exception):
    """A policy that cannot be loaded or trained; the message is one sentence for the user."""


def in_short(error: Exception) -> str:
    """An error of a library: its class and the first line of what it says, printable."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    said = one_line(first, LONGEST_REASON)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def load_whole(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of the hub, its cache or a local folder. Raises PolicyError."""
    advice = f"use {TINY_MODEL}, a local folder, or a hub id that can be reached"
    if not isdir(name):
        require_hub_model(name, advice)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        quantized = _quantization(config)
        if quantized is None:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                trust_remote_code=False,
                output_loading_info=True,  # a model and a report, which transformers' types do not say
                ignore_mismatched_sizes=True,  # the report names them
            )
            model, report = loaded
    except Exception as error:  # of any of the libraries that read a model's files
        raise PolicyError(
            f"--model {name}: holds no causal language model with its tokenizer "
            f"({in_short(error)}); {advice}"
        ) from error
    if quantized is not None:
        raise PolicyError(
            f"--model {name}: must have weights that can be trained, and its are quantized ({quantized})"
        )
    require_all_tensors(name, model, report)
    require_words_in_model(name, model, tokenizer)
    return model, tokenizer


def _quantization(config: PretrainedConfig) -> str | None:
    """How the weights of a model, or of the text model in it, are quantized; None if they are not."""
    for part in (config, config.get_text_config(decoder=True)):
        settings = getattr(part, "quantization_config", None)
        if settings is not None:
            settings = settings if isinstance(settings, dict) else vars(settings)
            return str(settings.get("quant_method", "quantization_config"))
    return None


def require_all_tensors(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Raise PolicyError unless the report of loading `model` says that each tensor was found and has a
    place, and all are finite floating-point numbers. report: what transformers could not explain by
    tied weights, by prefixes or by names that it knows to ignore."""
    kinds = {
        "missing": report["missing_keys"],
        "of no use": report["unexpected_keys"],
        "of another shape": [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]],
    }  # fmt: skip
    found = [f"{_some(keys)} {kind}" for kind, keys in kinds.items() if keys]
    if found or report["error_msgs"]:
        raise PolicyError(
            f"--model {name}: must hold the tensors of a {type(model).__name__}; "
            f"{'; '.join(found or report['error_msgs'][:1])}"
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise PolicyError(f"--model {name}: must be a whole model, and holds adapters of another")
    broken = [
        key
        for key, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    fixed = [key for key, weight in model.named_parameters() if not weight.is_floating_point()]
    if broken:
        raise PolicyError(f"--model {name}: must hold finite numbers; {_some(broken)} not finite")
    if fixed:
        raise PolicyError(f"--model {name}: must have weights that can be trained; {_some(fixed)} not of floating point")  # fmt: skip


def _some(keys: Collection[str]) -> str:
    """`5 tensors (a, b, c, ...) are`."""
    first = ", ".join(sorted(keys)[:MOST_NAMED]) + (", ..." if len(keys) > MOST_NAMED else "")
    return f"{len(keys)} tensors ({first}) are" if len(keys) > 1 else f"1 tensor ({first}) is"


def vocabulary(model: PreTrainedModel) -> int:
    """How many token ids a model gives probabilities to."""
    return model.get_output_embeddings().weight.shape[0]


def embedded_words(model: PreTrainedModel) -> int:
    """How many token ids a model can read."""
    embedding: Any = model.get_input_embeddings()
    return embedding.weight.shape[0]


def require_words_in_model(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise PolicyError if the tokenizer has words that the model has no embedding for. Special
    tokens, of images say, may be among them: no prompt holds those."""
    if model.get_output_embeddings() is None or model.get_input_embeddings() is None:
        raise PolicyError(f"--model {name}: must have an embedding and an output layer")
    embedded = embedded_words(model)
    added = tokenizer.added_tokens_decoder
    unknown = [
        word
        for word, index in tokenizer.get_vocab().items()
        if index >= embedded and not (index in added and added[index].special)
    ]
    if unknown:
        raise PolicyError(
            f"--model {name}: must have a tokenizer of its own vocabulary, {embedded} ids, and the "
            f"tokenizer has {len(unknown)} words above them"
        )


def require_hub_model(name: str, advice: str) -> None:
    """Raise PolicyError unless the model is in the hub's cache or on the hub. Asks once; loading would
    retry for a minute."""
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # of whichever HTTP client the hub library uses
        raise PolicyError(
            f"--model {name}: is no local folder and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}); {advice}"
        ) from error
