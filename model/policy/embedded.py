"""What the embedded policies have in common: a real Qwen2 made here from a seed, and a real fast tokenizer
whose words are those of a prompt language.
"""

from collections.abc import Sequence

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from custom_types import Policy, PromptSet


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token for each word, after padding, end and unknown.

    All are added tokens, matched leftmost and longest: transformers rebuilds the tokenizer of a
    Qwen2 folder from its vocabulary and added tokens and would drop any other way of splitting.
    Text that is no word has no tokens.
    """
    special = ["<pad>", "<eos>", "<unk>"]
    tokenizer = Tokenizer(
        models.BPE({word: index for index, word in enumerate(special)}, merges=[])
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def embedded_policy(
    name: str,
    prompts: PromptSet,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    *,
    hidden: int,
    mlp: int,
    layers: int,
    positions: int,
) -> Policy:
    """A policy of random float32 weights that speaks `prompts`."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Larger than transformers' 0.02, which is for wide models: tiny would learn 5 times as slowly
        # with it.
        initializer_range=hidden**-0.5,
    )
    config.prompt_set = prompts.name  # by which a checkpoint's folder says what it speaks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).float()
    stops = (tokenizer.eos_token_id,)
    return Policy(name, model, tokenizer, prompts, stops, tokenizer.pad_token_id)
