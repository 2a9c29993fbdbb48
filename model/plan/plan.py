"""What a run needs of a GPU, by arithmetic: memory, time and disk, the formula beside each number.

`plan(args)` builds the model on the meta device, without weights, counts the worst case of a step, and
adds up what `model/plan/memory.py` says is in memory together.
"""

from math import ceil
from pathlib import Path
from textwrap import fill

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from buffer.packing import row_length
from constants import CARDS, PLANNED_CARD, SHAPES, TINY_MODEL
from custom_types import TASKS, Policy, PromptSet
from model.args import AZRArgs
from model.plan.memory import (
    ADAPTERS,
    AUTOCAST,
    FLOAT32,
    TOGETHER,
    Part,
    peak,
    product,
    rollout_rows,
    standing_rows,
    units,
    update_rows,
)  # fmt: skip
from model.policy.load import build_tiny, tiny_tokenizer
from model.policy.modes import recompute_activations
from model.policy.weights import PolicyError, require_hub_model
from model.presets import is_small, recomputes
from model.proposers import PROPOSERS
from prime_inversion import all_problems, primes_between
from prompts import CHAT, COMPACT, PROMPT_SETS, TURN
from utils.string_formatting import PromptRenderer

GIB = 2**30
MARGIN = 0.05  # of the card's memory, which its allocator loses to fragments
UTILISATION = 0.35  # of the card's peak, which matrix products reach
LAUNCH = 0.03 / 36  # seconds a layer to launch a decoding step's kernels, however few the rows

# The longest prompts of our languages have 2.2 to 3.2 characters a token by SmolLM2's tokenizer, and
# its template adds 25 tokens and 5 a turn; Qwen2.5's is as long, its vocabulary three times as large.
CHARACTERS_PER_TOKEN, SYSTEM_TOKENS, TURN_TOKENS = 2, 25, 5


ADVICE = "use a local folder, or a hub id that can be reached"
FLAGS = {"rollout": "--rollout-rows or --max-answer-tokens", "update": "--microbatch-tokens"}


def read_model(args: AZRArgs):
    """The model that `args` names, without weights, and its prompt language. Raises PolicyError."""
    if not (args.model in (TINY_MODEL, *SHAPES) or Path(args.model).is_dir()):
        require_hub_model(args.model, ADVICE)
    try:
        if args.model == TINY_MODEL:
            config = build_tiny(args.max_prime, args.seed).model.config
        elif args.model in SHAPES:
            config = AutoConfig.for_model(**SHAPES[args.model])
        else:
            config = AutoConfig.from_pretrained(args.model, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        units(config)
        language = PROMPT_SETS[getattr(config, "prompt_set", CHAT.name)]
    except Exception as error:  # of any of the libraries that read a model's files
        raise PolicyError(
            f"--model {args.model}: has no config of a language model that can be planned for "
            f"({type(error).__name__}); {ADVICE}"
        ) from error
    if recomputes(language.name):  # as `load_policy` has it
        recompute_activations(model)
    return model, language


class _Counting:
    """Stands in for the tokenizer of a chat model: about as many ids as there are tokens."""

    chat_template = None

    def __call__(self, text: str) -> dict:
        around = SYSTEM_TOKENS + TURN_TOKENS * (1 + text.count(TURN))
        return {"input_ids": range(around + ceil(len(text) / CHARACTERS_PER_TOKEN))}


def count_parts(args: AZRArgs, language: PromptSet) -> tuple[Part, Part, Part]:
    """Proposing and solving in the worst case, and evaluating: every proposal is valid and new, every
    response as long as it may be. Attempts at a problem share its prompt, other prompts nothing."""
    tokenizer = tiny_tokenizer(args.max_prime) if language is COMPACT else _Counting()
    renderer = PromptRenderer.for_policy(Policy("", None, tokenizer, language, (), 0), args)
    prime = primes_between(args.min_prime, args.max_prime)[-1]
    asked = [all_problems(task, prime, prime)[-1] for task in TASKS]  # about the longest numbers
    ask = max(len(renderer.proposer(p.task, [p] * args.n_references).ids) for p in asked)
    question = max(len(renderer.solver(problem).ids) for problem in asked)

    problems = len(TASKS) * args.batch_size
    proposer = PROPOSERS[args.proposer]
    proposals = problems * proposer.writes
    # A decoy's own proposals are attempted beside what is taught.
    attempts = problems * args.n_attempts * (1 + (args.proposer == "decoy"))
    answers, further = (attempts, 0) if args.train_attempts else (problems, problems)
    new, answer = args.max_proposal_tokens, args.max_answer_tokens
    learning, evaluated = proposals * proposer.learns, len(TASKS) * args.eval_problems
    return (
        Part(proposals, proposals, ask, new, proposals, learning),
        Part(attempts + further, answers, question, answer, problems, answers),
        Part(evaluated, evaluated, question, answer, evaluated),
    )


def seconds(model, parts, slices, args: AZRArgs, row: int) -> tuple[float, float]:
    """Estimates of the rollout, in `slices` of its `parts`, and of the update, in rows of `row`. A
    decoding step lasts as long as launching it, reading the weights and the cache, or computing."""
    card, total = CARDS[args.card or PLANNED_CARD], model.num_parameters()
    layers = model.config.num_hidden_layers
    forward = 2 * total / (UTILISATION * card.flops)
    attention = 4 * layers * units(model.config)[1] * row / (UTILISATION * card.flops)
    rollout = 0.0
    for part, rows in zip(parts, slices, strict=True):
        reading = (2 * total + rows["KV cache"].size) / card.bandwidth
        step = max(LAUNCH * layers, reading, min(part.rows, args.rollout_rows) * forward)
        rollout += ceil(part.rows / args.rollout_rows) * part.new * step
        rollout += part.asked * part.prompt * forward
    recomputed, backward = model.is_activation_checkpointing, 1 if args.lora_rank else 2
    passes = 1 + recomputed + backward + (1 - 1 / args.minibatches)  # the last: scored once more
    return rollout, sum(part.scored for part in parts) * passes * (forward + attention)


def plan(args: AZRArgs) -> tuple[str, bool]:
    """The text, and whether the run fits the card. Raises PolicyError for a model it cannot read."""
    name, rank = args.card or PLANNED_CARD, args.lora_rank
    usable = (1 - MARGIN) * CARDS[name].memory * GIB
    model, language = read_model(args)
    precision = ADAPTERS if rank and model.is_activation_checkpointing else AUTOCAST
    if is_small(language.name):  # which stays on the CPU
        precision = FLOAT32
    parts = count_parts(args, language)
    longest, shared = max((part.prompt + part.new, part.prompt) for part in parts if part.trained)
    row = row_length(longest, shared, args.microbatch_tokens)
    rows, snapshot = standing_rows(model, precision, rank), product(0)
    if args.proposer == "frozen":  # its snapshot is the weights once more
        snapshot = rows["weights"]
        rows["weights"] = 2 * snapshot
    positions = max(longest, args.microbatch_tokens)
    rows |= update_rows(model, precision, positions, row, rank, args.entropy_floor)
    slices = [rollout_rows(model, precision, part, args.rollout_rows) for part in parts]
    rows |= max(slices, key=lambda own: peak(rows | own, "rollout").size)
    peaks = {phase: peak(rows, phase) for phase in TOGETHER}
    over = [phase for phase in peaks if peaks[phase].size > usable]
    verdict = f"Fits: both peaks are below {usable / GIB:.1f} GiB, the memory less {MARGIN:.0%}."
    if over:
        turns = [f"lower {FLAGS[phase]}" for phase in over]
        if sum(rows[part].size for part in ("weights", "gradients", "AdamW moments")) > usable:
            turns = [] if rank else ["turn on --lora-rank"]
        turns = ", or ".join([*turns, "take a larger --card"])
        verdict = f"Does not fit: {' and '.join(over)} need over {usable / GIB:.1f} GiB; {turns}."

    total, (proposing, solving) = model.num_parameters(), parts[:2]
    rollout, update = seconds(model, parts[:2], slices[:2], args, row)
    sampled = product(proposing.rows, proposing.new) + product(solving.rows, solving.new)
    rows |= {f"peak of the {phase}": peaks[phase] for phase in peaks}
    checkpoint = product(total, 4) + rows["AdamW moments"] + snapshot
    rows |= {"disk, download": product(total, 2), "disk, checkpoint": checkpoint}
    # The newest ones, the best, and the one that is being written.
    rows |= {"disk, checkpoints": (args.keep_checkpoints + 2) * checkpoint}
    read, scored, apart = (
        sum(getattr(part, kind) for part in parts[:2]) for kind in ("read", "scored", "apart")
    )
    lines = [
        f"{args.model} on {name}, {CARDS[name].memory:.1f} GiB: {total:,} parameters",
        "The worst case, in bytes: every proposal valid and new, every response as long as it may be.",
        *(f"{label:<20}{row.size / GIB:6.1f} GiB = {row.formula}" for label, row in rows.items()),
        f"{'tokens a step':<20}{sampled.size:,} sampled = {sampled.formula}, after prompts of "
        f"{proposing.prompt} and {solving.prompt}",
        f"{'tokens computed':<20}{read + scored:,} = {read:,} of rollout + {scored:,} of update, each "
        f"prompt once; {apart:,} if every response had its prompt to itself",
        f"{'seconds a step':<20}{rollout:.0f} of rollout, {update:.0f} of updating, estimated",
        verdict,
    ]
    return "\n".join(fill(line, 100, subsequent_indent=" " * 33) for line in lines), not over
