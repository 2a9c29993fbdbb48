"""The environment for other trainers. Oracles: the verifier that training uses and the reward numbers of
the method, written out, on ten thousand texts; the renderer of training; the modules of a process of its
own."""

import pickle
import subprocess
import sys
from importlib.util import find_spec
from random import Random

import pytest
from helpers.environments_page import block_with
from helpers.hostile_text import SPAN
from helpers.judged_texts import judged_answers, judged_proposals

from constants import ROOT
from custom_types import TASKS, Problem, Role, TaskType, Verdict
from model.policy.tiny import tiny_tokenizer
from model.presets import CHAT_PRESET
from prime_inversion import all_problems, is_held_out
from prompts import CHAT
from utils.environments.environment import (
    Environment,
    answer_reward,
    problem_of,
    proposal_reward,
)
from utils.environments.for_trl import learnability_reward, solver_reward
from utils.string_formatting import PromptRenderer, chat_messages

PROBLEM = Problem(TaskType.DEDUCTION, 2, 4, 7)
RIGHT, WRONG, MALFORMED = r"\boxed{4}", r"\boxed{5}", "4"
END = 7  # the id of an end token, say
environment = Environment(*SPAN)


def columns(problems: list[Problem]) -> dict[str, list]:
    return {name: [getattr(item, name) for item in problems] for name in ("task", "x", "y", "p")}


@pytest.mark.parametrize(
    "module, package",
    [
        ("environment", "sys"),
        ("for_trl", "sys"),
        ("for_reasoning_gym", "reasoning_gym"),
        ("prime_inversion_env", "verifiers"),
    ],
)
def test_it_needs_neither_torch_nor_transformers(module, package):
    """Neither can be imported there, and a problem is drawn, asked, answered and paid."""
    if find_spec(package) is None:
        pytest.skip(f"needs the package {package}")
    code = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["model"] = None
from random import Random
import utils.environments.{module}
from utils.environments.environment import Environment, answer_reward
environment = Environment(max_prime=13)
(problem,) = environment.draw(1, Random(0))
assert "(mod" in environment.solver_text(problem)
assert answer_reward(environment.judge_answer(r"\\boxed{{%d}}" % problem.solution, problem)) == 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "package, module, command",
    [
        ("verifiers", "prime_inversion_env", "pip install verifiers==0.4.0"),
        ("reasoning_gym", "for_reasoning_gym", "pip install reasoning-gym==0.1.25"),
        ("datasets", "for_trl", "pip install 'datasets<5'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_command(package, module, command):
    code = f"""
import sys
sys.modules[{package!r}] = None
import utils.environments.{module} as adapter
adapter.solver_dataset([], None)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")
    assert done.stderr.splitlines()[-1].endswith(f"; {command}")


@pytest.mark.parametrize(
    "word, printed", [("answer_reward", "[1.0, -0.5, 1.0, -1.0] 0.5"), ("learnability", "0.5")]
)
def test_what_the_page_shows_of_it_runs_without_packages(word, printed):
    code = "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", code + block_with(word)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == printed


def test_answers_earn_what_they_earn_in_training():
    texts, problems, rewards = zip(*judged_answers(), strict=True)
    found = [
        answer_reward(environment.judge_answer(text, problem))
        for text, problem in zip(texts, problems, strict=True)
    ]
    assert found == list(rewards)


def test_proposals_earn_what_they_earn_in_training():
    for text, task, attempts, reward in judged_proposals():
        for named in (task, str(task)):
            assert learnability_reward(environment, text, named, attempts) == reward, text[:200]


def test_what_did_not_end_is_malformed():
    assert environment.judge_answer(RIGHT, PROBLEM, finished=False) is Verdict.MALFORMED
    said = environment.judge_proposal(r"\boxed{2 * y ≡ 1 (mod 7)}", PROBLEM.task, finished=False)
    assert said == (Verdict.MALFORMED, None)


def test_a_valid_proposal_is_not_paid_without_attempts():
    with pytest.raises(ValueError, match="no reward"):
        proposal_reward(Verdict.VALID)


def test_prompts_are_those_of_training():
    """By `PromptRenderer`, with the lengths of the preset of chat models."""
    limits = {
        Role.SOLVER: CHAT_PRESET["max_answer_tokens"],
        Role.PROPOSER: CHAT_PRESET["max_proposal_tokens"],
    }
    renderer = PromptRenderer(CHAT, tiny_tokenizer(SPAN[1]), *SPAN, limits)
    for task in TASKS:
        problems = all_problems(task, *SPAN)
        assert environment.solver_text(problems[3]) == renderer.solver(problems[3]).text
        request = renderer.proposer(task, problems[:3]).text
        assert environment.proposer_text(task, problems[:3]) == request


def test_turns_are_the_users_and_the_assistants():
    """By hand: two worked examples would be two turns each."""
    text = Environment(*SPAN, language="dialogue").solver_text(PROBLEM)
    messages = chat_messages(text)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3 + ["user"]
    assert messages[-1]["content"] == "2 * y ≡ 1 (mod 7)"
    assert [m["content"][:7] for m in messages[1::2]] == [r"\boxed{"] * 3
    (message,) = chat_messages(environment.solver_text(PROBLEM))  # of a chat model: one turn
    assert message == {"role": "user", "content": environment.solver_text(PROBLEM)}


def test_what_is_held_out_is_left_out():
    held_out = Environment(5, 61, held_out=0.25)
    trained, evaluated = held_out.trained(), held_out.evaluated()
    assert not any(is_held_out(problem, 0.25) for problem in trained)
    assert all(is_held_out(problem, 0.25) for problem in evaluated)
    space = [problem for task in TASKS for problem in all_problems(task, 5, 61)]
    assert sorted(map(str, trained + evaluated)) == sorted(map(str, space))
    assert set(held_out.draw(2000, Random(0))) <= set(trained)
    assert Environment(5, 61).evaluated() == Environment(5, 61).trained() == space


@pytest.mark.parametrize(
    "given, named",
    [
        (dict(min_prime=3), "min_prime 3"),
        (dict(max_prime=619), "max_prime 619"),
        (dict(min_prime=24, max_prime=28), "min_prime 24, max_prime 28"),
        (dict(held_out=-0.1), "held_out -0.1"),
        (dict(held_out=1), "held_out 1"),
        (dict(max_prime=5, held_out=0.01), "held_out 0.01"),  # holds out nothing
        (dict(language="latin"), "not latin"),
        (dict(min_prime="5"), "min_prime '5': must be an integer"),
        (dict(max_prime=None), "max_prime None: must be an integer"),
        (dict(max_prime=31.5), "max_prime 31.5: must be an integer"),
        (dict(held_out="0.25"), "held_out '0.25': must be a share"),
        (dict(held_out=float("nan")), "held_out nan: must be a share"),
        (dict(max_answer_tokens=0), "max_answer_tokens 0: must be an integer of at least 1"),
        (dict(max_answer_tokens="x"), "max_answer_tokens 'x': must be an integer of at least 1"),
        (dict(max_proposal_tokens=-5), "max_proposal_tokens -5: must be an integer of at least 1"),
    ],
)
def test_what_it_cannot_be_made_of_is_named(given, named):
    with pytest.raises(ValueError, match=named):
        Environment(**given)


# ---------------------------------------------------------------- the reward function for TRL


def test_the_reward_function_agrees_with_the_verifier():
    """As TRL calls it: completions as texts or as turns, and the columns."""
    texts, problems, rewards = zip(*judged_answers(), strict=True)
    ids = [[1, END]] * len(texts)
    turns = [[{"role": "assistant", "content": text}] for text in texts]
    reward = solver_reward(environment)
    for completions in (texts, turns):
        given = dict(prompts=None, completions=completions, completion_ids=ids, trainer_state=None)
        assert reward(**given, **columns(problems)) == list(rewards)


def test_a_completion_that_was_cut_off_is_malformed_if_its_end_is_known():
    answers, problems = [RIGHT, RIGHT, WRONG, MALFORMED], [PROBLEM] * 4
    given = dict(completions=answers, completion_ids=[[1, END], [END, 1], [1, END], [1, END]])
    known, unknown = solver_reward(environment, stop_ids=[END]), solver_reward(environment)
    assert known(**given, **columns(problems)) == [1.0, -1.0, -0.5, -1.0]
    assert unknown(**given, **columns(problems)) == [1.0, 1.0, -0.5, -1.0]
    assert known.__name__ == "solver_reward"


def test_the_reward_function_takes_what_trainers_hand_it():
    """Nothing written, turns without a text and in parts, rows of another data set, another process."""
    reward = pickle.loads(pickle.dumps(solver_reward(environment, stop_ids=[END])))
    parts = [{"type": "text", "text": RIGHT[:4]}, {"type": "text", "text": RIGHT[4:]}]
    said = [*([{"role": "assistant", "content": one}] for one in (None, parts, RIGHT)), [], ""]
    ids = [[END], [1, END], [1, END], [], []]
    given = columns([PROBLEM] * 5) | {"task": ["deduction"] * 2 + [None] + ["deduction"] * 2}
    found = reward(completions=said, completion_ids=ids, **given)
    assert found == [-1.0, 1.0, None, -1.0, -1.0] and reward.__name__ == "solver_reward"
    assert solver_reward(environment)(completions=[RIGHT], **columns([PROBLEM])) == [1.0]
    with pytest.raises(ValueError, match="completion_ids: must be given"):
        reward(completions=[RIGHT], **columns([PROBLEM]))


def test_rows_without_a_problem_are_refused():
    with pytest.raises(ValueError, match="is not 1 modulo 7"):
        problem_of("deduction", 2, 5, 7)


@pytest.mark.parametrize("attempts", [RIGHT, "", [], ()])
def test_a_proposal_is_paid_by_a_list_of_attempts(attempts):
    proposal = r"\boxed{2 * y ≡ 1 (mod 7)}"
    with pytest.raises(ValueError, match="attempts .*: must be a list of one text or more"):
        learnability_reward(environment, proposal, "deduction", attempts)
    assert learnability_reward(environment, "no problem", "deduction", attempts) == -1.0
