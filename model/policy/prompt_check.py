r"""Whether prompts arrive as they were written, and whether what a model answers can be read.

A chat template is a program that comes with a model: it may leave content out, change it, or raise. A
tokenizer may have no word for ≡, or end a prompt as if it were a whole text. Such a run would train on
questions that nobody asked.
"""

from collections.abc import Sequence

from custom_types import Equation, Policy, Prompt, Response
from model.policy.weights import PolicyError, in_short
from prompts import TURN
from utils.string_formatting import (
    PromptRenderer,
    decode,
    format_answer,
    format_equation,
    parse_proposer,
    parse_solver,
)

SHOWN = 40  # characters of a text that was lost


def require_prompts(policy: Policy, renderer: PromptRenderer, prompts: Sequence[Prompt]) -> None:
    """Raise PolicyError unless each prompt decodes to a text that holds each of its turns, is the same
    whenever it is rendered and does not end in an end token; and boxed numbers and equations survive
    the tokenizer. Costs a few milliseconds."""
    rows = policy.model.get_input_embeddings().weight.shape[0]
    try:
        for prompt in prompts:
            reason = _fault(policy, renderer, prompt, rows) or _unreadable(policy, prompt)
            if reason:
                break
    except Exception as error:  # of a template or a tokenizer
        reason = f"its tokenizer and chat template cannot be used ({in_short(error)})"
    if reason:
        raise PolicyError(f"--model {policy.name}: {reason}")


def _fault(policy: Policy, renderer: PromptRenderer, prompt: Prompt, rows: int) -> str | None:
    """What is wrong with a prompt, in words."""
    unknown = [token for token in prompt.ids if not 0 <= token < rows]
    if unknown:
        return f"must have an embedding for each token of a prompt; it has {rows}, and none for {unknown[0]}"
    for _ in range(2):
        if renderer.encode(prompt.text) != prompt.ids:
            return "its chat template must write the same prompt each time"
    found = _bare(_decoded(policy, prompt.ids))
    asked = [format_equation(prompt.problem), *prompt.text.split(TURN)]
    lost = next((text for text in asked if _bare(text) not in found), None)
    if lost is not None:
        short = lost if len(lost) <= SHOWN else lost[:SHOWN] + "..."
        return f"its tokenizer and chat template must keep what a prompt says, and lose {short!r}"
    if prompt.ids[-1] in policy.stop_ids:
        end = _decoded(policy, prompt.ids[-1:])
        return f"a prompt must not end as a response does, and its tokenizer ends one with {end!r}"
    return None


def _unreadable(policy: Policy, prompt: Prompt) -> str | None:
    """What a response may say that would not be read as it was written, in words."""
    problem, task = prompt.problem, prompt.task
    shown = {letter: getattr(problem, letter) for letter in "xyp"} | {task.asked: None}
    number, equation = format_answer(problem.solution), format_answer(format_equation(problem))
    for text, parse, meant in (
        (number, parse_solver, problem.solution),
        (equation, lambda found: parse_proposer(found, task), Equation(**shown)),
    ):
        ids = tuple(policy.tokenizer(text, add_special_tokens=False)["input_ids"])
        found = _decoded(policy, ids)
        if parse(found) != meant or set(ids) & set(policy.stop_ids):
            return f"its tokenizer must read {text!r} back as it was written, and gives {found!r}"
    return None


def _decoded(policy: Policy, ids: Sequence[int]) -> str:
    """As a response is."""
    return decode(policy.tokenizer, [Response(tuple(ids), (), False)])[0]


def _bare(text: str) -> str:
    """Without white space, which templates trim and some tokenizers change."""
    return "".join(text.split())
