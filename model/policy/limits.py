"""The longest prompts that a run can have, and whether its model has room for them and their responses:
positions for all tokens, and layers that see them all."""

from collections.abc import Sequence

from transformers import DynamicCache

from custom_types import ROLES, TASKS, Policy, Prompt, Role
from model.args import AZRArgs
from model.policy.weights import PolicyError, in_short
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer, format_equation

MOST_PROBLEMS = 2000  # of a task, those of the largest primes, among which is the longest
POSITIONS = "max_position_embeddings", "max_seq_len", "max_sequence_length", "n_ctx"


def longest_prompts(
    renderer: PromptRenderer, args: AZRArgs, roles: Sequence[Role] = ROLES
) -> list[Prompt]:
    """One prompt of each role and task, about the problem whose equation has most tokens, K times for a
    proposer. Raises PolicyError where the tokenizer or its template cannot write one."""
    prompts = []
    try:
        for task in TASKS:
            known = all_problems(task, args.min_prime, args.max_prime)[-MOST_PROBLEMS:]
            texts = [format_equation(problem) for problem in known]
            tokens = renderer.tokenizer(texts, add_special_tokens=False)["input_ids"]
            longest = known[max(range(len(known)), key=lambda index: len(tokens[index]))]
            if Role.PROPOSER in roles:
                prompts.append(renderer.proposer(task, [longest] * args.n_references))
            if Role.SOLVER in roles:
                prompts.append(renderer.solver(longest))
    except Exception as error:  # of a template, which is a program, or of a tokenizer
        raise PolicyError(
            f"--model {args.model}: its tokenizer and chat template cannot write a prompt "
            f"({in_short(error)})"
        ) from error
    return prompts


def require_positions(policy: Policy, prompts: Sequence[Prompt]) -> None:
    """Raise PolicyError unless every token of each prompt with its response has a position."""
    longest, length = _longest(prompts)
    config = policy.model.config.get_text_config(decoder=True)
    found = (getattr(config, name, None) for name in POSITIONS)
    positions = next((number for number in found if isinstance(number, int) and number > 0), length)
    if positions < length:
        raise PolicyError(
            f"--model {policy.name}: must have {length} positions for a prompt of {len(longest.ids)} "
            f"tokens with a response of {longest.max_tokens}, and has {positions}; lower "
            f"--max-answer-tokens, --max-proposal-tokens or --n-references"
        )


def narrow_window(policy: Policy, prompts: Sequence[Prompt]) -> str | None:
    """Why a layer may not see a whole prompt with its response, in words; None where all of them do.
    transformers knows by the layers of a cache made for the model."""
    _, length = _longest(prompts)
    config = policy.model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    sizes = (getattr(layer, "sliding_window", None) for layer in layers)
    windows = [size for size in sizes if size is not None]
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's, with a full cache
        windows.append(config.window_size)
    kinds = {  # transformers' cache has chunks as windows, so they are named first
        "attention_chunk_size": getattr(config, "attention_chunk_size", None),
        "attention window": min(windows, default=None),
    }
    for kind, size in kinds.items():
        if size is not None and size < length:
            return f"its {kind} is {size}, and a prompt with its response may have {length} tokens"
    return None


def _longest(prompts: Sequence[Prompt]) -> tuple[Prompt, int]:
    """The prompt that has most tokens together with its response, and that number."""
    longest = max(prompts, key=lambda prompt: len(prompt.ids) + prompt.max_tokens)
    return longest, len(longest.ids) + longest.max_tokens
