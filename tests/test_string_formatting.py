"""Prompts and parsers. Oracles: the written rules on what is well formed, the verifier on every example
that a prompt shows, and lossless encoding by the real tokenizer of `tiny`."""

import re
from collections import Counter
from itertools import product
from random import Random

import pytest

from constants import MAXIMUM_RESPONSE_CHARACTERS
from custom_types import TASKS, Equation, Problem, Role, TaskType, Verdict
from model.args import AZRArgs
from model.policy.tiny import tiny_tokenizer
from prime_inversion import all_problems
from prompts import CHAT, COMPACT
from utils.string_formatting import (
    PromptRenderer,
    format_answer,
    format_equation,
    parse_proposer,
    parse_solver,
)
from utils.validate_by_executing import judge_proposer, judge_solver

ABDUCTION, DEDUCTION, INDUCTION = TASKS
SPANS = [(5, 13), (11, 23), (5, 617), (7, 7), (617, 617)]
MAX_TOKENS = 333  # a number that no equation of the small ranges contains

every_task_and_span = pytest.mark.parametrize("task, span", list(product(TASKS, SPANS)))


def box(content: str) -> str:
    return rf"\boxed{{{content}}}"


def renderer(prompts, span) -> PromptRenderer:
    return PromptRenderer(prompts, tiny_tokenizer(span[1]), *span, dict.fromkeys(Role, MAX_TOKENS))


def some_problems(task, span, n=120) -> list[Problem]:
    """All problems of a small range; of a large one those of its smallest prime and a sample."""
    space = all_problems(task, *span)
    return space if len(space) <= n else space[:50] + Random(0).sample(space, n)


# ---------------------------------------------------------------- parsers


@pytest.mark.parametrize(
    "text, value",
    [
        (box("4"), 4),
        ("I think 2 * 4 = 8, so " + box("4") + ". Done.", 4),
        (box(" 4 "), 4),
        (box("\n4\t\r\n"), 4),
        (box("x = 5"), 5),
        (box("y=5"), 5),
        (box(" p =  7 "), 7),
        (box("-3"), -3),  # well formed and, being outside 1..p-1, wrong
        (box("0"), 0),
        (box("999999999"), 999_999_999),
        (box("3") + " or rather " + box("4"), 4),  # the last box counts
        (r"\boxed{3 " + box("4"), 4),  # ... also where an earlier one is not closed
        (box("x") + "\ud800\x00" + box("4"), 4),
    ],
)
def test_an_answer_is_read(text, value):
    assert parse_solver(text) == value


@pytest.mark.parametrize(
    "content",
    "5.0 1e1 1_0 0x5 +5 --5 -- 1,000 5, 5% 1/2 five x x= =5 z=5 X=5 x==5 x=y=5 x:5 {5 $5$ 5! (5) "
    "1000000000 ٥ ५ ５ ² ½ Ⅴ −5 5\u200b 5\u00a0 5\x00 5\x0b 5\x1c \u30005".split(" ")
    + ["", " ", "- 5", "5 6", "5 or 6", "x = 5 6", "5\\", r"\text{5}", r"\frac{5}{1}", "\ud800"],
)
def test_an_answer_that_is_not_one_plain_integer_is_malformed(content):
    assert parse_solver(box(content)) is None
    assert parse_solver(box("4") + box(content)) is None  # an earlier box does not rescue it


@pytest.mark.parametrize(
    "text",
    ["", "4", "x = 4", r"\boxed{4", r"\boxed 4", "boxed{4}", r"\boxed {4}", r"\Boxed{4}", r"\boxed(4)",
     "{4}", r"\boxed{45", r"\boxed{4 ",
     box("4") + r" \boxed{5", box("4") + r" \boxed{", "}" + r"\boxed{4", r"\fbox{4}"],
)  # fmt: skip
def test_without_a_closed_last_box_a_response_is_malformed(text):
    assert parse_solver(text) is None
    assert all(parse_proposer(text, task) is None for task in TASKS)


def test_the_length_of_a_response_is_capped():
    answer = box("4")
    padding = " " * (MAXIMUM_RESPONSE_CHARACTERS - len(answer))
    assert parse_solver(padding + answer) == 4
    assert parse_solver(padding + " " + answer) is None


FORMS = {ABDUCTION: ("x", "4", "7"), DEDUCTION: ("2", "y", "7"), INDUCTION: ("2", "4", "p")}
READ = {
    ABDUCTION: Equation(None, 4, 7),
    DEDUCTION: Equation(2, None, 7),
    INDUCTION: Equation(2, 4, None),
}


@pytest.mark.parametrize(
    "pattern",
    [
        "{} * {} ≡ 1 (mod {})",
        "{} * {} = 1 (mod {})",
        "{}*{}≡1(mod{})",
        "  {}  *\n{}\t≡ 1 ( mod  {} )\r\n",
    ],
)
@pytest.mark.parametrize("task", TASKS)
def test_a_proposal_is_read_whatever_its_spaces(task, pattern):
    text = "Let me see. " + box("3 * y ≡ 1 (mod 5)") + box(pattern.format(*FORMS[task])) + " Hm."
    assert parse_proposer(text, task) == READ[task]


@pytest.mark.parametrize(
    "pattern",
    ["{} * {} ≡ 1 mod {}", "{} * {} == 1 (mod {})", "{} * {} ≡ 2 (mod {})", "{} * {} ≡ 01 (mod {})",
     "{} × {} ≡ 1 (mod {})", "{} {} ≡ 1 (mod {})", "{} * {} ≡ 1 (mod {}", "{} * {} ≡ 1", "{}*{}=1(mod {}).",
     "{} * {} ≡ 1 (MOD {})", r"{} * {} \equiv 1 (mod {})", "{} * {} * 1 ≡ 1 (mod {})",
     "{}0000000000 * {}0000000000 ≡ 1 (mod {})", "{}٣ * {}٣ ≡ 1 (mod {})", "{}.0 * {}.0 ≡ 1 (mod {}.0)",
     "{} * {} ≡ 1 (mod {}), new", "{}\u00a0* {} ≡ 1 (mod {})", "+{} * +{} ≡ 1 (mod {})",
     "$x * $y ≡ 1 (mod $p)"],
)  # fmt: skip
@pytest.mark.parametrize("task", TASKS)
def test_a_proposal_in_another_form_is_malformed(task, pattern):
    assert parse_proposer(box(pattern.format(*FORMS[task])), task) is None


def test_only_the_asked_letter_may_and_must_be_unknown():
    for filled in ("xyp", "xy", "xp", "yp", "x", "y", "p", ""):
        numbers = [
            number if letter in filled else letter
            for letter, number in zip("xyp", "247", strict=True)
        ]
        for task in TASKS:
            parsed = parse_proposer(box("{} * {} ≡ 1 (mod {})".format(*numbers)), task)
            legal = set("xyp") - set(filled) == {task.asked}
            assert parsed == (READ[task] if legal else None), (filled, task)


def test_a_negative_number_is_well_formed():
    assert parse_proposer(box("-2 * y ≡ 1 (mod -7)"), DEDUCTION) == Equation(-2, None, -7)


# ---------------------------------------------------------------- what prompts show


@pytest.mark.parametrize("prompts", [CHAT, COMPACT], ids=lambda p: p.name)
@every_task_and_span
def test_a_solver_prompt_asks_its_problem_once(task, span, prompts):
    write = renderer(prompts, span)
    for problem in some_problems(task, span):
        prompt = write.solver(problem)
        assert (prompt.role, prompt.task, prompt.problem) == (Role.SOLVER, task, problem)
        assert prompt.text.count(format_equation(problem)) == 1
        # Read back as a proposal, the equation is this problem (induction: with its own prime).
        assert judge_proposer(box(format_equation(problem)), task, *span) == (
            Verdict.VALID,
            problem,
        )
        assert judge_solver(format_answer(problem.solution), problem, *span) is Verdict.CORRECT


def worked_example(text: str, task: TaskType, span) -> tuple[Problem, str]:
    """The problem and the answer of the example in a chat prompt, taken from its text."""
    ((equation, answer),) = re.findall(
        r"^Example: for (.+) the answer is (.+)$", text, re.MULTILINE
    )
    verdict, problem = judge_proposer(box(equation), task, *span)
    assert verdict is Verdict.VALID, equation
    return problem, answer


@every_task_and_span
def test_the_worked_example_is_right_and_not_what_is_asked(task, span):
    write = renderer(CHAT, span)
    for problem in some_problems(task, span):
        text = write.solver(problem).text
        example, answer = worked_example(text, task, span)
        assert judge_solver(answer, example, *span) is Verdict.CORRECT
        assert judge_solver(text, example, *span) is Verdict.CORRECT  # the last box decides
        # Inverses come in pairs, so `x * 3 ≡ 1 (mod 5)` gives away `x * 2 ≡ 1 (mod 5)` too.
        asked, shown = ((p.p, frozenset((p.x, p.y))) for p in (problem, example))
        assert asked != shown, problem


@every_task_and_span
def test_the_worked_example_tells_nothing_of_the_answer(task, span):
    """One example for the whole range: were it chosen by the answer, it could be read back from it.
    Only the example's own equation, and its mirror image, are given another."""
    shown = Counter(
        worked_example(renderer(CHAT, span).solver(problem).text, task, span)[0]
        for problem in set(some_problems(task, span))
    )
    (_, most), *others = shown.most_common()
    assert sum(count for _, count in others) <= 2 < most


@every_task_and_span
def test_the_example_of_a_chat_proposer_prompt_is_valid(task, span):
    references = Random(1).sample(some_problems(task, span), 3)
    prompt = renderer(CHAT, span).proposer(task, references)
    assert (prompt.role, prompt.task, prompt.problem) == (Role.PROPOSER, task, references[0])
    (example,) = re.findall(r"^Example: (.+)$", prompt.text, re.MULTILINE)
    assert judge_proposer(example, task, *span)[0] is Verdict.VALID
    assert judge_proposer(prompt.text, task, *span)[0] is Verdict.VALID
    assert all(f"\n{format_equation(known)}\n" in prompt.text for known in references)


@every_task_and_span
def test_the_references_of_a_compact_prompt_are_valid_answers_to_it(task, span):
    references = Random(1).sample(some_problems(task, span), 3)
    text = renderer(COMPACT, span).proposer(task, references).text
    head, shown = text.removesuffix(": ").split(" like ")
    assert head == f"{span[0]}..{span[1]} propose {task.asked}"
    for known, equation in zip(references, shown.split("; "), strict=True):
        assert judge_proposer(format_answer(equation), task, *span) == (Verdict.VALID, known)


def test_the_compact_solver_prompt_by_hand():
    text = renderer(COMPACT, (5, 13)).solver(Problem(DEDUCTION, 2, 4, 7)).text
    assert text == "5..13 solve 2 * y ≡ 1 (mod 7): "


@pytest.mark.parametrize("span", [(5, 13), (11, 23), (5, 617)])
def test_chat_solver_prompts_state_range_and_length_in_numbers(span):
    low, high = span
    for task, problem in [(task, all_problems(task, *span)[-1]) for task in TASKS]:
        text = renderer(CHAT, span).solver(problem).text
        stated = (
            f"{low} <= p <= {high}"
            if task is INDUCTION
            else f"1 <= {task.asked} <= {problem.p - 1}"
        )
        assert stated in text
        assert f"at most {MAX_TOKENS} tokens" in text and "last \\boxed{} decides" in text


@pytest.mark.parametrize(
    "task, rule, breaks_it",
    [
        (ABDUCTION, "p is a prime number with 11 <= p <= 23", "x * 2 ≡ 1 (mod 15)"),
        (ABDUCTION, "p is a prime number with 11 <= p <= 23", "x * 2 ≡ 1 (mod 7)"),
        (DEDUCTION, "p is a prime number with 11 <= p <= 23", "2 * y ≡ 1 (mod 29)"),
        (ABDUCTION, "is an integer from 1 to p - 1", "x * 0 ≡ 1 (mod 11)"),
        (DEDUCTION, "is an integer from 1 to p - 1", "12 * y ≡ 1 (mod 11)"),
        (INDUCTION, "each at least 1", "-1 * -1 ≡ 1 (mod p)"),
        (INDUCTION, "not both 1", "1 * 1 ≡ 1 (mod p)"),
        (INDUCTION, "some prime number p with 11 <= p <= 23", "2 * 4 ≡ 1 (mod p)"),  # only 7 fits
        (INDUCTION, "is larger than both of them", "14 * 14 ≡ 1 (mod p)"),  # 195 = 3 * 5 * 13
        (INDUCTION, "divides x * y - 1", "3 * 3 ≡ 1 (mod p)"),  # 8 = 2 * 2 * 2
    ],
)
def test_each_rule_that_a_chat_proposer_prompt_states_is_enforced(task, rule, breaks_it):
    text = renderer(CHAT, (11, 23)).proposer(task, some_problems(task, (11, 23))[:1]).text
    assert rule in text and f"{task.asked} is asked" in text
    assert judge_proposer(box(breaks_it), task, 11, 23) == (Verdict.INVALID, None)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("span, limit", [((5, 13), 1000), ((11, 23), 1000), ((5, 617), 150)])
@pytest.mark.parametrize("task", TASKS)
def test_the_tiny_tokenizer_is_lossless(task, span, limit):
    write = renderer(COMPACT, span)
    tokenizer = write.tokenizer
    for problem in some_problems(task, span, limit):
        prompts = [write.solver(problem), write.proposer(task, [problem, problem])]
        responses = [format_answer(problem.solution), format_answer(format_equation(problem))]
        lengths = AZRArgs().max_answer_tokens, AZRArgs().max_proposal_tokens
        for prompt, response, length in zip(prompts, responses, lengths, strict=True):
            ids = tokenizer(response, add_special_tokens=False)["input_ids"]
            assert tokenizer.unk_token_id not in (*prompt.ids, *ids)
            assert tokenizer.decode(prompt.ids) == prompt.text
            assert tokenizer.decode(ids) == response
            assert tokenizer.decode([*prompt.ids, *ids]) == prompt.text + response
            # With its end token, a legal response has just the default length: no room for junk.
            assert len(ids) + 1 == length


def test_a_tokenizer_with_a_chat_template_gets_the_text_as_a_user_turn():
    tokenizer = tiny_tokenizer(13)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role == 'user' and m.content }}; {% endfor %}"
        "{% if add_generation_prompt %}y{% endif %}"
    )
    prompt = PromptRenderer(COMPACT, tokenizer, 5, 13, dict.fromkeys(Role, 6)).solver(
        Problem(DEDUCTION, 2, 4, 7)
    )
    assert tokenizer.decode(prompt.ids) == prompt.text + "; y"
