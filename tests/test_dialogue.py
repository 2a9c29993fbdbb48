"""The prompts of small chat models, turns of a conversation. Oracle: the verifier itself."""

import pytest
from test_string_formatting import box, every_task_and_span, some_problems

from custom_types import Problem, Role, TaskType, Verdict
from model.policy.tiny import tiny_tokenizer
from prompts import DIALOGUE, TURN
from utils.string_formatting import PromptRenderer, format_equation
from utils.validate_by_executing import judge_proposer, judge_solver

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


class Messages:
    """A tokenizer in so far as a renderer needs one; it keeps the messages it was given. A mock:
    the real one is tested where its package is installed."""

    chat_template = TEMPLATE

    def apply_chat_template(self, messages, **options):
        self.messages = messages
        return {"input_ids": [1]}


def turns(span, task, references=None, problem=None) -> list[dict]:
    tokenizer = Messages()
    write = PromptRenderer(DIALOGUE, tokenizer, *span, dict.fromkeys(Role, 20))
    write.solver(problem) if problem else write.proposer(task, references)
    return tokenizer.messages


@every_task_and_span
def test_a_solver_sees_right_answers_of_its_own_and_then_the_problem(task, span):
    for problem in some_problems(task, span)[:40]:
        messages = turns(span, task, problem=problem)
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * 3 + ["user"]
        *examples, asked = messages
        assert asked["content"] == format_equation(problem)
        for question, answer in zip(examples[::2], examples[1::2], strict=True):
            equation = question["content"].rpartition("\n")[2]
            verdict, example = judge_proposer(box(equation), task, *span)
            assert verdict is Verdict.VALID
            assert judge_solver(answer["content"], example, *span) is Verdict.CORRECT
            # Inverses come in pairs: neither the problem nor its mirror image.
            known, shown = ((p.p, frozenset((p.x, p.y))) for p in (problem, example))
            assert known != shown


@every_task_and_span
def test_the_examples_tell_nothing_of_the_answer(task, span):
    """All problems but the examples themselves, and their mirror images, begin alike."""
    beginnings = {}
    for problem in set(some_problems(task, span)):
        *examples, _ = turns(span, task, problem=problem)
        text = TURN.join(message["content"] for message in examples)
        beginnings[text] = beginnings.get(text, 0) + 1
    most = max(beginnings.values())
    assert sum(beginnings.values()) - most <= 2 * DIALOGUE.examples


@every_task_and_span
def test_a_proposer_sees_valid_proposals_of_its_own(task, span):
    """Two that never change, then the references; the prompt is known by its first reference."""
    references = some_problems(task, span)[:3]
    messages = turns(span, task, references=references)
    proposals = [message["content"] for message in messages[1::2]]
    judged = [judge_proposer(text, task, *span) for text in proposals]
    assert all(verdict is Verdict.VALID for verdict, _ in judged)
    assert [problem for _, problem in judged[2:]] == references and len(judged) == 5
    assert {message["content"] for message in messages[2::2]} == {"Next problem."}
    prompt = PromptRenderer(DIALOGUE, Messages(), *span, dict.fromkeys(Role, 20)).proposer(
        task, references
    )
    assert (prompt.role, prompt.problem) == (Role.PROPOSER, references[0])


@pytest.mark.parametrize(
    "task, rule, breaks_it",
    [
        (TaskType.ABDUCTION, "p is a prime number with 11 <= p <= 23", "x * 2 ≡ 1 (mod 15)"),
        (TaskType.DEDUCTION, "p is a prime number with 11 <= p <= 23", "2 * y ≡ 1 (mod 29)"),
        (TaskType.ABDUCTION, "is an integer from 1 to p - 1", "x * 0 ≡ 1 (mod 11)"),
        (TaskType.INDUCTION, "each at least 1 and not both 1", "1 * 1 ≡ 1 (mod p)"),
        (TaskType.INDUCTION, "some prime number p with 11 <= p <= 23", "2 * 4 ≡ 1 (mod p)"),
        (TaskType.INDUCTION, "is larger than both of them", "14 * 14 ≡ 1 (mod p)"),
        (TaskType.INDUCTION, "divides x * y - 1", "3 * 3 ≡ 1 (mod p)"),
    ],
)
def test_each_rule_of_a_proposal_is_stated_and_enforced(task, rule, breaks_it):
    span = (11, 23)
    opening = turns(span, task, references=some_problems(task, span)[:1])[0]["content"]
    assert rule in opening and f"{task.asked} is asked" in opening
    assert f"with {task.asked} left as a letter; the last \\boxed{{}} decides" in opening
    assert "at most 20 tokens" in opening
    assert judge_proposer(box(breaks_it), task, *span) == (Verdict.INVALID, None)


@pytest.mark.parametrize("task", TaskType)
def test_each_rule_of_an_answer_is_stated(task):
    span = (11, 23)
    problem = some_problems(task, span)[0]
    opening = turns(span, task, problem=problem)[0]["content"]
    asked = task.asked
    stated = "11 <= p <= 23" if asked == "p" else f"1 <= {asked} <= p - 1"
    assert stated in opening and "at most 20 tokens" in opening
    assert "one plain integer inside \\boxed{}; the last \\boxed{} decides" in opening


def test_the_turns_reach_the_tokenizers_own_template():
    tokenizer = tiny_tokenizer(13)
    tokenizer.chat_template = TEMPLATE
    write = PromptRenderer(DIALOGUE, tokenizer, 5, 13, dict.fromkeys(Role, 20))
    problem = Problem(TaskType.DEDUCTION, 2, 3, 5)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": format_equation(problem)}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode(write.solver(problem).ids).endswith(
        tokenizer.decode(tokenizer(text)["input_ids"])
    )
