"""What a run needs of a GPU, by arithmetic: memory, time and disk, the formula beside each number.

`plan(args)` builds the model on the meta device, without weights, counts the worst case of a step, and
adds up what `model/plan/memory.py` says is in memory together. With `--trace` it asks `model/plan/trace.py`
too, where the step itself runs without numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod
from pathlib import Path
from textwrap import fill

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from constants import (
    CARDS,
    EMBEDDED_MODELS,
    GIB,
    MAXIMUM_PRIME,
    PLANNED_CARD,
    REASONER_MODEL,
    REASONER_PRIME,
    SHAPES,
)
from custom_types import TASKS, PromptSet
from model.args import AZRArgs
from model.inference import slices
from model.plan.memory import (
    ADAPTERS,
    AUTOCAST,
    FLOAT32,
    LOADING,
    MOMENTS,
    STANDING,
    Precision,
    Products,
    Stage,
    fullest_moment,
    longest_sequence,
    packed_row,
    peak_sizes,
    rollout_sizes,
    sharded_sizes,
    standing_sizes,
    sum_of,
    total,
    units,
    update_sizes,
)
from model.plan.trace import traced_peaks
from model.policy.load import build_embedded, require_packages
from model.policy.modes import recompute_activations
from model.policy.weights import PolicyError, require_hub_model
from model.presets import LANGUAGES, is_small, recomputes
from model.proposers.table import PROPOSERS
from prime_inversion import all_problems, primes_between
from prompts import CHAT, PROMPT_SETS, TURN
from utils.string_formatting import PromptRenderer

# Of the card's memory, which its allocator loses to fragments. Every tensor that two whole steps of the 3B
# model make and free, replayed through a model of torch's allocator, was 57.6 GiB at most where the
# allocator had reserved 66.1. Extended segments (utils/allocator.py) lose less: 5% of two steps on one H200,
# where memory was never short; in a long run on a full card nobody has measured.
MARGIN = 0.15
UTILISATION = 0.35  # of the card's peak, which matrix products reach
# Seconds that a layer's kernels take to be launched for one token, however few the rows: about 47 kernels
# (1,686 in the 36 layers of Qwen2.5-3B), so 21 to 26 microseconds each. From published times of decoding
# without captured graphs, in which the GPU waits for Python: transformers' benchmark of gemma-2b, 19 to 20
# ms for 18 layers (hf-internal-testing/benchmark_results, June to September 2024), and PyTorch's simple
# Llama-7B, 25.5 tokens a second for 32 layers (pytorch.org/blog/accelerating-generative-ai-2).
LAUNCH = 1.0e-3, 1.2e-3
# Bytes a second that are written, and hashed: to a good drive of the machine, to a network volume.
DISK = 1e9, 0.2e9

# The longest prompts of our languages have 2.2 to 3.2 characters a token by SmolLM2's tokenizer, and
# its template adds 25 tokens and 5 a turn; Qwen2.5's is as long, its vocabulary three times as large.
CHARACTERS_PER_TOKEN, SYSTEM_TOKENS, TURN_TOKENS = 2, 25, 5

ADVICE = "use a local folder, or a hub id that can be reached"
FLAGS = {"rollout": "--rollout-rows or --max-answer-tokens", "update": "--microbatch-tokens"}
LINE, INDENT = 100, 33  # characters


def plan(args: AZRArgs) -> tuple[str, bool]:
    """The text, and whether the run fits the card. Raises PolicyError for a model it cannot read. A range
    of primes that is not decided yet is the widest, whose prompts are the longest."""
    assumed = []
    if args.trace:
        require_packages(args)
    if args.undecided:
        widest = REASONER_PRIME if args.model == REASONER_MODEL else MAXIMUM_PRIME
        args = replace(args, max_prime=widest)
        assumed = [
            f"--max-prime auto: planned for primes {args.min_prime} to {widest}, the most that it may "
            f"take; attempts before step 1 are not counted."
        ]
    name = args.card or PLANNED_CARD
    usable = int((1 - MARGIN) * CARDS[name].memory * GIB)
    model, language = read_model(args)
    precision = precision_of(args, model, language)
    whole = count_stages(args, language)
    stages = tuple(stage.of_process(args.processes) for stage in whole)
    sizes = memory_sizes(args, model, precision, stages)
    peaks = {phase: fullest_moment(sizes, phase) for phase in MOMENTS}
    loading = sum_of(sizes, LOADING) if args.shard else 0
    traced = traced_peaks(args, model, precision, stages) if args.trace else {}
    planned = peak_sizes(sizes)
    full = [phase for phase in peaks if max(planned[phase], traced.get(phase, 0)) > usable]
    if loading > usable:
        full = ["loading", *full]
    verdict = f"Fits: both peaks are below {usable / GIB:.1f} GiB, the memory less {MARGIN:.0%}."
    if full:
        standing = sum_of(sizes, (*STANDING, "gradients"))
        verdict = _advice(full, standing, usable, args.lora_rank)

    (least, most), update = seconds(args, model, precision, stages[:2])  # evaluating is not counted
    sampling = whole[:2]  # what a step has
    sampled = [(stage.responses, stage.response_tokens) for stage in sampling]
    read, scored, unshared = (
        sum(getattr(stage, kind) for stage in sampling) for kind in ("read", "scored", "unshared")
    )
    disk = disk_sizes(args, model, sizes)
    fast, slow = (total(disk["disk, checkpoint"]) / rate for rate in DISK)
    written = ceil(args.total_steps / args.checkpoint_every)  # the last step's too
    lines = [
        f"{args.model} on {name}, {CARDS[name].memory:.1f} GiB: {model.num_parameters():,} parameters",
        *assumed,
        *_shared_out(args),
        "The worst case, in bytes: every proposal valid and new, every response as long as it may be.",
        *(_line(name, total(size), _formula(size)) for name, size in sizes.items() if total(size)),
        *(
            _line(f"peak of the {phase}", planned[phase], _names(sizes, names))
            for phase, names in peaks.items()
        ),
        *([_line("while it is loaded", loading, _names(sizes, LOADING))] if loading else []),
        *(
            _line(f"traced {phase}", size, "the peak of the program, run without numbers")
            for phase, size in traced.items()
        ),
        *(_line(name, total(size), _formula(size)) for name, size in disk.items()),
        f"{'tokens a step':<20}{total(sampled):,} sampled = {_formula(sampled)}, after prompts of "
        f"{' and '.join(str(stage.prompt_tokens) for stage in sampling)}",
        f"{'tokens computed':<20}{read + scored:,} = {read:,} of rollout + {scored:,} of update, each "
        f"prompt once; {unshared:,} if every response had its prompt to itself",
        f"{'seconds a step':<20}{least:.0f} to {most:.0f} of rollout, {update:.0f} of updating, estimated",
        f"{'writing checkpoints':<20}{fast:.0f} to {slow:.0f} seconds each, at {DISK[0] / 1e9} to {DISK[1] / 1e9} "
        f"GB/s; {written * fast / 60:.0f} to {written * slow / 60:.0f} minutes of the run for {written}, "
        f"in which the GPU waits",
        verdict,
    ]
    return "\n".join(fill(line, LINE, subsequent_indent=" " * INDENT) for line in lines), not full


def _shared_out(args: AZRArgs) -> list[str]:
    """What is said of several processes."""
    if args.processes == 1:
        return []
    kept = "a part of the weights" if args.shard else "all weights"
    return [
        f"--processes {args.processes}: memory and seconds are those of one process, which has {kept}; what "
        f"the processes tell each other takes time that is not counted."
    ]


def _line(name: str, size: int, formula: str) -> str:
    return f"{name:<20}{size / GIB:6.1f} GiB = {formula}"


def _formula(products: Products) -> str:
    """`4 x 5 + 2` for [(4, 5), (2,)]; products of 0 are left out."""
    shown = (" x ".join(f"{factor:,}" for factor in one) for one in products if prod(one))
    return " + ".join(shown)


def _names(sizes: Mapping[str, Products], names: Sequence[str]) -> str:
    """The names of what is in memory together; what a run does not have is left out."""
    return " + ".join(name for name in names if sum_of(sizes, (name,)))


def _advice(full: Sequence[str], standing: int, usable: int, rank: int) -> str:
    """Which flags to turn where the phases `full` do not fit. standing: bytes that weights, gradients
    and moments take."""
    turns = [f"lower {FLAGS[phase]}" for phase in full if phase in FLAGS]
    if standing > usable or "loading" in full:
        turns = [] if rank else ["turn on --lora-rank"]
    turns = [*turns, "take a larger --card"]
    phases = " and ".join(f"the {phase}" for phase in full)
    needs = "needs" if len(full) == 1 else "need"
    return f"Does not fit: {phases} {needs} over {usable / GIB:.1f} GiB; {', or '.join(turns)}."


def read_model(args: AZRArgs) -> tuple[PreTrainedModel, PromptSet]:
    """The model that `args` names, without weights, and its prompt language. Raises PolicyError."""
    if not (args.model in (*EMBEDDED_MODELS, *SHAPES) or Path(args.model).is_dir()):
        require_hub_model(args.model, ADVICE)
    try:
        if args.model in EMBEDDED_MODELS:
            config = build_embedded(LANGUAGES[args.model], args).model.config
        elif args.model in SHAPES:
            config = AutoConfig.for_model(**SHAPES[args.model])
        else:
            config = AutoConfig.from_pretrained(args.model, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        units(config)
        language = PROMPT_SETS[getattr(config, "prompt_set", CHAT.name)]
    except PolicyError:
        raise
    except Exception as error:  # of any of the libraries that read a model's files
        raise PolicyError(
            f"--model {args.model}: has no config of a language model that can be planned for "
            f"({type(error).__name__}); {ADVICE}"
        ) from error
    if recomputes(language.name):  # as `load_policy` has it
        recompute_activations(model)
    return model, language


def precision_of(args: AZRArgs, model: PreTrainedModel, language: PromptSet) -> Precision:
    """How a run has its numbers: small policies stay on the CPU, in float32."""
    if is_small(language.name) or args.precision == "float32":
        return FLOAT32
    return ADAPTERS if args.lora_rank and model.is_activation_checkpointing else AUTOCAST


class _Counting:
    """Stands in for the tokenizer of a chat model: about as many ids as there are tokens."""

    chat_template = None

    def __call__(self, text: str) -> dict[str, range]:
        around = SYSTEM_TOKENS + TURN_TOKENS * (1 + text.count(TURN))
        return {"input_ids": range(around + ceil(len(text) / CHARACTERS_PER_TOKEN))}


def count_stages(args: AZRArgs, language: PromptSet) -> tuple[Stage, Stage, Stage]:
    """Proposing, solving and evaluating, in the worst case: every proposal is valid and new, every
    response as long as it may be. Attempts at a problem share its prompt, other prompts nothing."""
    small = is_small(language.name)
    tokenizer = build_embedded(language.name, args).tokenizer if small else _Counting()
    renderer = PromptRenderer.for_run(language, tokenizer, args)
    prime = primes_between(args.min_prime, args.max_prime)[-1]
    asked = [all_problems(task, prime, prime)[-1] for task in TASKS]  # about the longest numbers
    request = max(
        len(renderer.proposer(problem.task, [problem] * args.n_references).ids) for problem in asked
    )
    question = max(len(renderer.solver(problem).ids) for problem in asked)

    problems = len(TASKS) * args.batch_size
    proposer = PROPOSERS[args.proposer]
    proposals = problems * proposer.writes
    # A decoy's own proposals are attempted beside what is taught.
    attempts = problems * args.n_attempts * (1 + proposer.teaches_others)
    answers, further = (attempts, 0) if args.train_attempts else (problems, problems)
    evaluated = len(TASKS) * args.eval_problems
    return (
        Stage(
            responses=proposals,
            prompts=proposals,
            prompt_tokens=request,
            response_tokens=args.max_proposal_tokens,
            asked=proposals,
            trained=proposals * proposer.learns,
        ),
        Stage(
            responses=attempts + further,
            prompts=answers,
            prompt_tokens=question,
            response_tokens=args.max_answer_tokens,
            asked=problems,
            trained=answers,
        ),
        Stage(
            responses=evaluated,
            prompts=evaluated,
            prompt_tokens=question,
            response_tokens=args.max_answer_tokens,
            asked=evaluated,
        ),
    )


def memory_sizes(
    args: AZRArgs, model: PreTrainedModel, precision: Precision, stages: Sequence[Stage]
) -> dict[str, Products]:
    """What is in memory at some moment of a run, by name; of the rollouts, what the largest has."""
    if args.shard:
        standing = sharded_sizes(model, precision, args.processes)
    else:
        standing = standing_sizes(model, precision, args.lora_rank)
    if args.proposer == "frozen":
        standing = {
            "weights": standing["weights"],
            "frozen proposer": standing["weights"],
            **standing,
        }
    if args.reward == "alignment":
        ((trained, _),) = standing["gradients"]
        standing = standing | {"movement": [(trained, 12)]}
    positions = max(longest_sequence(stages)[0], args.microbatch_tokens)
    row = packed_row(stages, args.microbatch_tokens)
    scored = (positions // row) * max(
        stage.fitting(row) * stage.response_tokens for stage in stages if stage.trained
    )
    update = update_sizes(
        model, precision, positions, row, scored, args.lora_rank, args.entropy_floor
    )
    rollouts = [rollout_sizes(model, precision, stage, args.rollout_rows) for stage in stages]

    def most(rollout: dict[str, Products]) -> int:
        sizes = standing | rollout
        return sum_of(sizes, fullest_moment(sizes, "rollout"))

    return standing | update | max(rollouts, key=most)


def disk_sizes(
    args: AZRArgs, model: PreTrainedModel, sizes: Mapping[str, Products]
) -> dict[str, Products]:
    """What is downloaded, and what checkpoints take: the newest ones, the best, and the one that is
    being written."""
    frozen = sizes.get("frozen proposer", [])
    before = [(trained, 4) for trained, _ in sizes.get("movement", [])]
    moments = [(model.num_parameters(), 8)] if args.shard else sizes["AdamW moments"]
    checkpoint = [(model.num_parameters(), 4), *moments, *frozen, *before]
    number = args.keep_checkpoints + 2
    return {
        "disk, download": [(model.num_parameters(), 2)],
        "disk, checkpoint": checkpoint,
        "disk, checkpoints": [(number, *factors) for factors in checkpoint],
    }


def seconds(
    args: AZRArgs, model: PreTrainedModel, precision: Precision, stages: Sequence[Stage]
) -> tuple[tuple[float, float], float]:
    """Estimates of the rollout of `stages`, the least and the most, and of the update. A decoding step
    lasts as long as the longest of three: launching it, reading the weights and the cache, computing."""
    card, parameters = CARDS[args.card or PLANNED_CARD], model.num_parameters()
    layers, rate = model.config.num_hidden_layers, UTILISATION * card.flops
    forward = 2 * parameters / rate  # of a token

    def rollout(launch: float) -> float:
        found = 0.0
        for stage in stages:
            cache = rollout_sizes(model, precision, stage, args.rollout_rows)["KV cache"]
            reading = (2 * parameters + total(cache)) / card.bandwidth
            for rows in slices(stage.responses, args.rollout_rows):
                computing = (rows.stop - rows.start) * forward
                found += stage.response_tokens * max(launch * layers, reading, computing)
            found += stage.asked * stage.prompt_tokens * forward
        return found

    attention = (
        4 * layers * units(model.config).queries * packed_row(stages, args.microbatch_tokens) / rate
    )
    # The forward pass, once more where activations are recomputed, the backward pass, and the scoring
    # of all minibatches except the first with the weights that sampled.
    backward, rescored = 1 if args.lora_rank else 2, 1 - 1 / args.minibatches
    passes = 1 + model.is_activation_checkpointing + backward + rescored
    update = sum(stage.scored for stage in stages) * passes * (forward + attention)
    least, most = LAUNCH
    return (rollout(least), rollout(most)), update
