"""The longest prompts that a run can have, and whether its model has room for them and their responses."""

from collections.abc import Sequence

from transformers import DynamicCache

from custom_types import ROLES, TASKS, Policy, Prompt, Role
from model.args import AZRArgs
from model.policy.weights import PolicyError, in_short
from prime_inversion import all_problems
from utils.string_formatting import PromptRenderer, format_equation

MOST_PROBLEMS = 2000  # of a task, those of the largest primes, of which the longest is looked for
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
    except Exception as error:  # of a template, which is a program of its own, or of a tokenizer
        raise PolicyError(
            f"--model {args.model}: its tokenizer and chat template cannot write a prompt "
            f"({in_short(error)})"
        ) from error
    return prompts


def require_room(policy: Policy, prompts: Sequence[Prompt]) -> None:
    """Raise PolicyError unless a model sees all of each prompt with its response: every token has a
    position, and no layer looks through a window that is shorter."""
    longest = max(prompts, key=lambda prompt: len(prompt.ids) + prompt.max_tokens)
    length = len(longest.ids) + longest.max_tokens
    needed = f"a prompt of {len(longest.ids)} tokens with a response of {longest.max_tokens}"
    config = policy.model.config.get_text_config(decoder=True)
    found = (getattr(config, name, None) for name in POSITIONS)
    positions = next((number for number in found if isinstance(number, int) and number > 0), length)
    if positions < length:
        raise PolicyError(
            f"--model {policy.name}: must have {length} positions for {needed}, and has {positions}; lower "
            f"--max-answer-tokens, --max-proposal-tokens or --n-references"
        )
    kind, window = _narrowest(config, length)
    if window < length:
        raise PolicyError(
            f"--model {policy.name}: must see {length} tokens at once for {needed}, and its {kind} is "
            f"{window}; lower --max-answer-tokens, --max-proposal-tokens or --n-references"
        )


def _narrowest(config, length: int) -> tuple[str, int]:
    """The narrowest window that a layer looks through, with a name for it; `length` where none does.
    transformers knows by the layers of a cache made for the model."""
    layers = DynamicCache(config=config).layers
    windows = [layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)]
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's, with a full cache
        windows.append(config.window_size)
    named = getattr(config, "attention_chunk_size", None), "attention_chunk_size"
    narrowest = min((one for one in windows if one), default=length)
    return named[1] if narrowest == named[0] else "attention window", narrowest
