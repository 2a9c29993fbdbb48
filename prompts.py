r"""The prompt templates, as data: a language for chat models, one for small chat models, and a compact
one for the tiny policy.

Texts are `string.Template`s. A solver text may name

    $equation $letter $p_less_1 $min_prime $max_prime $max_tokens $examples

and a proposer text

    $references $letter $min_prime $max_prime $max_tokens $example

$examples are worked problems, each with its $equation and $answer. $references are known problems, each
as an $equation or as a $proposal, which is how a response writes it. $example is the first of them as a
$proposal. `TURN` ends a turn of a chat: the user's, then the assistant's, and so on.

`EQUATION` is how a problem is written, by both roles and in all languages; `ANSWER` is how every
response ends. Each rule that the verifier enforces is stated in the chat texts with its numbers. The
compact language cannot state rules; it names the range, and its policy learns the rest from rewards.
"""

from dataclasses import replace

from custom_types import PromptSet, TaskType

EQUATION = {
    TaskType.ABDUCTION: "x * $y ≡ 1 (mod $p)",
    TaskType.DEDUCTION: "$x * y ≡ 1 (mod $p)",
    TaskType.INDUCTION: "$x * $y ≡ 1 (mod p)",
}
ANSWER = r"\boxed{$content}"

_SOLVER_RULES = r"""
You may reason first, briefly: the whole response may have at most $max_tokens tokens. End it with the answer as one plain integer inside \boxed{}; the last \boxed{} decides.
$examples"""

_RESIDUE = (
    r"""Find the integer $letter with 1 <= $letter <= $p_less_1 for which

$equation
"""
    + _SOLVER_RULES
)

_PRIME = (
    r"""Find a prime number p with $min_prime <= p <= $max_prime for which

$equation

Any such prime is accepted: p must divide the product of the two numbers minus 1.
"""
    + _SOLVER_RULES
)

_PROPOSER_RULES = r"""
Your problem is worth most when a solver gets it right on some attempts and wrong on others; one that is always or never solved is worth nothing. Some known problems:
$references

You may reason first, briefly: the whole response may have at most $max_tokens tokens. End it with the problem inside \boxed{}, written exactly like this, with $letter left as a letter; the last \boxed{} decides.
Example: $example"""

_PROPOSE_RESIDUE = (
    r"""Write a new problem about x * y ≡ 1 (mod p) in which $letter is asked.
Rules: p is a prime number with $min_prime <= p <= $max_prime. The other given number is an integer from 1 to p - 1.
"""
    + _PROPOSER_RULES
)

_PROPOSE_PRIME = (
    r"""Write a new problem about x * y ≡ 1 (mod p) in which p is asked.
Rules: give two integers x and y, each at least 1 and not both 1, such that some prime number p with $min_prime <= p <= $max_prime is larger than both of them and divides x * y - 1.
"""
    + _PROPOSER_RULES
)


def _by_asked(residue: str, prime: str) -> dict[TaskType, str]:
    """The text of each task: `residue` where x or y is asked, `prime` where p is."""
    return dict.fromkeys(TaskType, residue) | {TaskType.INDUCTION: prime}


CHAT = PromptSet(
    name="chat",
    solver=_by_asked(_RESIDUE, _PRIME),
    proposer=_by_asked(_PROPOSE_RESIDUE, _PROPOSE_PRIME),
    reference="$equation",
    reference_separator="\n",
    examples=1,
    example="Example: for $equation the answer is $answer",
)

TURN = "\f"

# A model too small to follow instructions continues a conversation as it began: here worked problems look
# like its earlier answers, and known problems like its earlier proposals. What all prompts of a task have
# in common comes first, so that it is computed once.
_ANSWERS_IN_TURN = r"""Answer each with one plain integer inside \boxed{}; the last \boxed{} decides. The whole response may have at most $max_tokens tokens.

$examples""" + TURN + "$equation"  # fmt: skip

_RESIDUES_IN_TURN = (
    "Problems: find the integer $letter with 1 <= $letter <= p - 1 for which the equation holds. "
    + _ANSWERS_IN_TURN
)

_PRIMES_IN_TURN = (
    "Problems: find a prime number p with $min_prime <= p <= $max_prime for which the equation "
    "holds. Any such prime is accepted: p must divide the product of the two numbers minus 1. "
    + _ANSWERS_IN_TURN
)

_NEXT = TURN + "Next problem." + TURN

_PROPOSALS_IN_TURN = r"""A problem is worth most when a solver gets it right on some attempts and wrong on others; one that is always or never solved is worth nothing. Write each inside \boxed{}, with $letter left as a letter; the last \boxed{} decides. The whole response may have at most $max_tokens tokens.""" + TURN + "$references" + _NEXT.removesuffix(TURN)  # fmt: skip

_PROPOSE_RESIDUES_IN_TURN = (
    "Write problems about x * y ≡ 1 (mod p) in which $letter is asked. p is a prime number with "
    "$min_prime <= p <= $max_prime. The other given number is an integer from 1 to p - 1. "
    + _PROPOSALS_IN_TURN
)

_PROPOSE_PRIMES_IN_TURN = (
    "Write problems about x * y ≡ 1 (mod p) in which p is asked. Give two integers x and y, each at "
    "least 1 and not both 1, such that some prime number p with $min_prime <= p <= $max_prime is "
    "larger than both of them and divides x * y - 1. " + _PROPOSALS_IN_TURN
)

DIALOGUE = PromptSet(
    name="dialogue",
    solver=_by_asked(_RESIDUES_IN_TURN, _PRIMES_IN_TURN),
    proposer=_by_asked(_PROPOSE_RESIDUES_IN_TURN, _PROPOSE_PRIMES_IN_TURN),
    reference="$proposal",
    reference_separator=_NEXT,
    first_references=2,
    examples=3,
    example="$equation" + TURN + "$answer",
    example_separator=TURN,
)

COMPACT = PromptSet(
    name="compact",
    solver=dict.fromkeys(TaskType, "$min_prime..$max_prime solve $equation: "),
    proposer=dict.fromkeys(TaskType, "$min_prime..$max_prime propose $letter like $references: "),
    reference="$equation",
    reference_separator="; ",
)

# The compact language, in which an answer has a scratchpad in front of its box: candidates, each with what
# it gives. With its sign and its space a result is one word, other than the number.
SCRATCHPAD = replace(COMPACT, name="scratchpad")
WORKED = "=$result "

PROMPT_SETS = {prompts.name: prompts for prompts in (CHAT, DIALOGUE, COMPACT, SCRATCHPAD)}

# The words of the compact language beside the integers, the longest match first; their spaces belong to
# them. A stretch of text that never varies is one word, so that a response is 4 to 6 tokens long.
COMPACT_WORDS = (
    r"\boxed{x * ",
    r"\boxed{",
    " solve ",
    " propose ",
    " like ",
    " * y ≡ 1 (mod ",
    " ≡ 1 (mod p)}",
    " ≡ 1 (mod p)",
    " ≡ 1 (mod ",
    "x * ",
    " * ",
    ")}",
    ")",
    "}",
    "x",
    "y",
    "p",
    "..",
    "; ",
    ": ",
)
