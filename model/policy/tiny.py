"""The embedded policy `tiny`. The tokenizer's words are the integers 0..max_prime and the few words of the
compact prompt language. The network is random: it knows nothing until `model/policy/warm_start.py`
teaches it to speak.
"""

from transformers import PreTrainedTokenizerFast

from constants import TINY_MODEL
from custom_types import Policy
from model.policy.embedded import embedded_policy, word_tokenizer
from prompts import COMPACT, COMPACT_WORDS


def tiny_tokenizer(max_prime: int) -> PreTrainedTokenizerFast:
    """One token for each integer 0..max_prime and each word of the compact language."""
    return word_tokenizer([*COMPACT_WORDS, *map(str, range(max_prime + 1))])


def build_tiny(max_prime: int, seed: int) -> Policy:
    """The embedded policy with random weights: 58,368 parameters for max_prime 13."""
    # One layer memorises in as many updates as two, in half the time.
    shape = dict(hidden=64, mlp=192, layers=1, positions=128)
    return embedded_policy(TINY_MODEL, COMPACT, tiny_tokenizer(max_prime), seed, **shape)
