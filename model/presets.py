"""Where a policy's arguments differ from the defaults of `AZRArgs`, which are those of `tiny`: a table by
the language that its prompts are written in. No file is opened here; `model/policy/language.py` finds
the language of a folder.
"""

from typing import Any

from constants import (
    AUTO,
    CHAT_REFERENCES,
    CHAT_TOKENS,
    DEFAULT_ATTEMPTS,
    FULL_FINE_TUNING_MEMORY,
    REASONER_MODEL,
    REASONER_PRIME,
    SMOLLM2_MODEL,
    TINY_MODEL,
)

# What every model that can write already has in common.
PRETRAINED = dict(
    rollout_rows=384,
    lr_half_life=0.0,
    warm_start_steps=0,
    eval_problems=128,
    eval_uniform=False,
    keep_checkpoints=1,
)

# The paper's values except for the batch and the length of a response, for one 80 GB GPU.
CHAT_PRESET = PRETRAINED | dict(
    # A GPU waits 1 to 3 minutes for one, and a machine that is lost costs the steps since the last: with
    # steps of 2 minutes, and a loss in 10 hours, both cost the least about every 20 steps.
    checkpoint_every=20,
    rollout_rows=432,  # half of a step's 32 * 3 * (8 + 1) answers
    batch_size=32,
    n_attempts=DEFAULT_ATTEMPTS,
    n_references=CHAT_REFERENCES,
    train_attempts=False,
    refill="uniform",
    max_prime=AUTO,
    max_proposal_tokens=CHAT_TOKENS,
    max_answer_tokens=CHAT_TOKENS,
    lr=1e-6,
    lr_warmup=0,
    adam_beta2=0.999,
    minibatches=3,
    entropy_coef=0.001,
    proposer_weight=1.0,
    crowding_cost=0.0,
    share_triples=False,
)

# On a GPU with less than 70 GiB: weights of 16 bits that stay as they are, with adapters.
LORA_PRESET = dict(lora_rank=32, lr=1e-5, rollout_rows=128, microbatch_tokens=8192)

# SmolLM2-135M-Instruct on a laptop's CPU: short answers, many attempts.
SMOLLM2_PRESET = PRETRAINED | dict(
    total_steps=130,
    batch_size=16,
    n_attempts=12,
    refill_attempts=12,  # a prompt is read once for all of them
    max_prime=13,
    max_proposal_tokens=24,
    max_answer_tokens=10,
    lr=5e-5,
    lr_warmup=5,
    lr_hold=100,  # at a constant rate one seed of three fell by 0.25 in ten steps
    lr_half_life=10.0,
    minibatches=4,
    microbatch_tokens=1024,
    proposer_weight=3.0,
    entropy_coef=0.15,
    entropy_floor=0.01,  # a bonus on all words pays for lost form, see model/eval/README.md
)

# The embedded policy that writes a scratchpad: long answers that a rule can be learned from, at a rate
# that leaves the arithmetic it began with in place.
REASONER_PRESET = dict(
    total_steps=40,
    max_prime=REASONER_PRIME,
    batch_size=32,
    n_attempts=6,
    share_triples=False,
    refill="none",
    held_out=0.25,
    max_answer_tokens=128,
    crowding_cost=10.0,
    lr=2e-4,
    lr_warmup=0,
    minibatches=8,
    proposer_weight=1.0,
    entropy_coef=0.0,
    warm_start_steps=2000,
    warm_start_lr=2e-3,
    warm_start_batch=96,
)

# The preset of each prompt language.
PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "scratchpad": REASONER_PRESET,
    "dialogue": SMOLLM2_PRESET,
    "chat": CHAT_PRESET,
}

LANGUAGES = {TINY_MODEL: "compact", REASONER_MODEL: "scratchpad", SMOLLM2_MODEL: "dialogue"}
SMALL = "compact", "scratchpad"


def language_by_name(model: str) -> str:
    """The prompt language of a policy that nothing is known of but its name: a chat model's, unless
    the name is one of ours."""
    return LANGUAGES.get(model, "chat")


def preset(language: str, gpu_memory: float | None = None) -> dict[str, Any]:
    """The fields in which a policy of this prompt language differs from the defaults; with adapters
    where the GPU has too little memory for a chat model, in GiB."""
    chosen = PRESETS[language]
    small = gpu_memory is not None and gpu_memory < FULL_FINE_TUNING_MEMORY
    return chosen | LORA_PRESET if small and chosen is CHAT_PRESET else chosen


def is_small(language: str) -> bool:
    """Whether a policy of this language is one like `tiny`, whatever it is called: on the CPU, in
    float32. Only so small a model needs a language made for it."""
    return language in SMALL


def recomputes(language: str) -> bool:
    """Whether the activations of a policy of this language are too many to keep for the backward pass."""
    return language == "chat"
