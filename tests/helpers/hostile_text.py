"""Texts that a policy might write to get paid for nothing, and what the rules in its prompt give them.

The oracle shares no code with the verifier: it knows the rules as the prompts state them, and the two
liberties in form that the verifier allows besides (a letter and = before the number of an answer; = for ≡ in
a proposal), tries every number, and compares texts.
"""

import re
import time
from random import Random

from custom_types import TASKS, Problem, TaskType, Verdict
from utils.validate_by_executing import judge_proposer, judge_solver

SPAN = (5, 13)
PRIMES = (5, 7, 11, 13)
ONE_OF_EACH = [Problem(task, 2, 4, 7) for task in TASKS]
FORM = {
    TaskType.ABDUCTION: "x * {} ≡ 1 (mod {})",
    TaskType.DEDUCTION: "{} * y ≡ 1 (mod {})",
    TaskType.INDUCTION: "{} * {} ≡ 1 (mod p)",
}
SPACE = " \t\r\n"
DIGITS = 9  # of a number, at most
LONGEST = 2**20  # characters, about

# Of 2 * 4 ≡ 1 (mod 7), with one letter asked: every number tried.
ACCEPTED = {
    TaskType.ABDUCTION: {str(x) for x in range(1, 7) if (x * 4 - 1) % 7 == 0},
    TaskType.DEDUCTION: {str(y) for y in range(1, 7) if (2 * y - 1) % 7 == 0},
    TaskType.INDUCTION: {str(p) for p in PRIMES if (2 * 4 - 1) % p == 0},
}
# Every legal proposal, a space between any two symbols, to the problem that it is.
LEGAL: dict[TaskType, dict[str, tuple[int, int, int]]] = {task: {} for task in TASKS}
for p in PRIMES:
    for x in range(1, p):
        for y in range(1, p):
            if (x * y - 1) % p == 0:
                LEGAL[TaskType.ABDUCTION][f"x * {y} ≡ 1 ( mod {p} )"] = (x, y, p)
                LEGAL[TaskType.DEDUCTION][f"{x} * y ≡ 1 ( mod {p} )"] = (x, y, p)
                if (x, y) != (1, 1):
                    LEGAL[TaskType.INDUCTION].setdefault(f"{x} * {y} ≡ 1 ( mod p )", (x, y, p))


def boxed(text: str) -> str | None:
    """What stands in the last box, its spaces at both ends removed."""
    return text.split(r"\boxed{")[-1].split("}")[0].strip(SPACE) if r"\boxed{" in text else None


def plain(number: str) -> str:
    """A number without the zeros in front, if it is one of ASCII digits."""
    short = number.isascii() and number.isdigit() and len(number) <= DIGITS
    return number.lstrip("0") if short else number


def earns_an_answer(text: str, task: TaskType) -> bool:
    """Whether the rules of the solver's prompt pay for a text, as an answer to one of `ONE_OF_EACH`."""
    content = boxed(text)
    if content is None:
        return False
    letter, equals, number = content.partition("=")
    if equals and letter.strip(SPACE) in ("x", "y", "p"):
        content = number.strip(SPACE)
    return plain(content) in ACCEPTED[task]


def legal_proposal(text: str, task: TaskType) -> tuple[int, int, int] | None:
    """The problem that a text proposes by the rules of the proposer's prompt, if any."""
    symbols = re.findall(rf"[0-9]+|mod|[^{SPACE}]", boxed(text) or "")
    return LEGAL[task].get(" ".join(map(plain, symbols)).replace("=", "≡"))


JUNK = [
    "\\boxed{", "}", "{", "\\boxed{4}", "\\boxed", "boxed{", "\\\\boxed{", "<|im_end|>", "<|im_start|>assistant\n",
    "<|endoftext|>", "<eos>", "<pad>", "\0", "\x07", "\x1b[2J", "\x7f", "\u202e", "\u200b", "\ufeff", "\xa0", "\u2003", "\x0b",
    "\x0c", "\x85", "\ud800", "\udfff", "٤", "४", "４", "⁴", "Ⅳ", "½", "²", "𝟒", "一", "+4", "-4", "--4", "4.0", "4e0", "0x4",
    "1_0", "4,", "4;", "$4$", "\\text{4}", "x=", "y = ", "p=", "x", "y", "p", "≡", "=", "≠", "*", "×", "(", ")", "mod", "MOD",
    " ", "\n", "\t", "\r\n", "1", "0", "7", "9" * 9, "9" * 10, "4" * 5000, "0" * 40, "None", "nan", "inf", "True", "__import__('os')",
    "2+2", "%d", "{0}", "$content", "e\u0301", "ﬁ", "İ", "ß",
]  # fmt: skip
SCRIPTS = ["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"]


def hostile_text(rng: Random) -> str:
    """A text near what earns something, or far from it; one in a few thousand is very long."""
    kind = rng.random()
    if kind < 0.35:
        text = r"\boxed{" + str(rng.choice([2, 4, 7, rng.randint(-20, 20)])) + "}"
    elif kind < 0.85:
        task = rng.choice(TASKS)
        text = r"\boxed{" + FORM[task].format(rng.randint(0, 14), rng.randint(0, 14)) + "}"
    elif kind < 0.95:
        text = "".join(rng.choice(JUNK) for _ in range(rng.randrange(30)))
    else:
        text = rng.randbytes(rng.randrange(60)).decode("latin-1")
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        text = mutated(text, rng)[:LONGEST]
    if rng.random() < 0.0003:
        filler = rng.choice([*JUNK, *JUNK, text])
        long = filler * (rng.randrange(1, LONGEST) // max(len(filler), 1) + 1)
        text = rng.choice([long + text, text + long, text[:9] + long + text[9:], long])
    return text


def mutated(text: str, rng: Random) -> str:
    at, kind = rng.randrange(len(text) + 1), rng.random()
    if kind < 0.4:
        return text[:at] + rng.choice(JUNK) + text[at:]
    if kind < 0.55:
        return text[:at] + text[at + rng.randrange(1, 4) :]
    if kind < 0.65:
        return (
            text[:at] + chr(rng.choice([rng.randrange(128), rng.randrange(0x110000)])) + text[at:]
        )
    if kind < 0.75:
        script = rng.choice(SCRIPTS)
        return "".join(script[int(c)] if c in "0123456789" else c for c in text)
    if kind < 0.85:
        return text * rng.choice([2, 3, 50])
    if kind < 0.9:
        return r"\boxed{" * rng.choice([1, 2, 2000]) + text + "}" * rng.choice([0, 1, 2])
    if kind < 0.95:
        return text[::-1]
    return (
        text.upper()
        if rng.random() < 0.5
        else text.replace(" ", rng.choice(["", "  ", "\n", "\xa0"]))
    )


def judged(text: str) -> tuple[list[str], list[Verdict], float]:
    """Judge a text in both roles and all tasks: what is wrong with the verdicts, the verdicts, and the
    seconds of processor time they took."""
    started = time.thread_time()
    answers = [judge_solver(text, problem, *SPAN) for problem in ONE_OF_EACH]
    proposals = [judge_proposer(text, task, *SPAN) for task in TASKS]
    seconds = time.thread_time() - started
    wrong = []
    for task, verdict, (proposed, problem) in zip(TASKS, answers, proposals, strict=True):
        if verdict is Verdict.CORRECT and not earns_an_answer(text, task):
            wrong.append(f"{task}: an answer the rules do not pay for is correct")
        if proposed is Verdict.VALID:
            legal = legal_proposal(text, task)
            if legal is None or problem != Problem(task, *legal):
                wrong.append(f"{task}: a proposal the rules do not allow is valid")
        if (problem is None) is (proposed is Verdict.VALID):
            wrong.append(f"{task}: verdict and problem do not go together")
    return wrong, [*answers, *(verdict for verdict, _ in proposals)], seconds
