"""The embedded policy `tiny`: a real Qwen2 and a real fast tokenizer, built here from a seed.

The tokenizer's words are the integers 0..max_prime and the few words of the compact prompt language. The
network is random: it knows nothing until `model/policy/warm_start.py` teaches it to speak.
"""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from constants import TINY_MODEL
from custom_types import Policy
from prompts import COMPACT, COMPACT_WORDS

HIDDEN = 64
# Larger than transformers' 0.02, which is for wide models: tiny would learn 5 times as slowly with it.
INITIAL_SPREAD = HIDDEN**-0.5


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
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_hidden_layers=1,  # memorises in as many updates as two layers, in half the time
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=INITIAL_SPREAD,
    )
    config.prompt_set = COMPACT.name  # by which a checkpoint's folder says what it speaks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).float()
    stops = (tokenizer.eos_token_id,)
    return Policy(TINY_MODEL, model, tokenizer, COMPACT, stops, tokenizer.pad_token_id)
