"""The taskset and self-play in verifiers. Oracles: the verifier of training on ten thousand texts; scripts
of replies whose rewards are worked out by hand.

The model is an endpoint on this machine that answers by a script. Agents use the harness `one-request` of
`tests/helpers/`, which asks in this process, as the usual one downloads a Python; all else is the library.
"""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

vf = pytest.importorskip("verifiers.v1", reason="pip install verifiers==0.4.0")

from helpers.environments_page import PAGE
from helpers.hostile_text import SPAN
from helpers.judged_texts import judged_answers, judged_proposals
from helpers.scripted_chat import CUT, scripted_chat
from verifiers.v1.graph import MessageNode
from verifiers.v1.utils.loaders import import_taskset, resolve_env_config

from constants import ROOT
from custom_types import TASKS, Problem, TaskType
from prime_inversion import all_problems, is_held_out
from utils.environments.environment import Environment

ID = "prime-inversion-env"
FOLDERS = [ROOT, ROOT / "utils" / "environments", ROOT / "tests" / "helpers"]
AGENT = {"harness": {"id": "one-request"}, "runtime": {"type": "subprocess"}}
DEDUCTION = TaskType.DEDUCTION
RIGHT, WRONG = r"\boxed{4}", r"\boxed{5}"  # answers to 2 * y ≡ 1 (mod 7)
VALID = r"\boxed{2 * y ≡ 1 (mod 7)}"


@pytest.fixture(scope="module", autouse=True)
def env_file():
    """The file, as the loader of verifiers finds it: by its id, on the path."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in FOLDERS:
            patch.syspath_prepend(str(folder))
        yield import_taskset(ID)


def environment_of(**given) -> vf.Env:
    seats = ["agent"] if given.get("id") else ["proposer", "solver"]
    return vf.load_environment(resolve_env_config({**dict.fromkeys(seats, AGENT), **given}))


def taskset(**given) -> dict:
    return {"id": ID, "min_prime": SPAN[0], "max_prime": SPAN[1], **given}


def played(env: vf.Env, tasks: list[vf.Task], replies: list[str | tuple[str, str]]):
    """The episodes of tasks, one after the other, and the prompts that were sent."""
    script = [reply if isinstance(reply, tuple) else (reply, "stop") for reply in replies]

    async def play(address: str) -> list[vf.Episode]:
        client = vf.EvalClientConfig(base_url=address, api_key_var="NO_KEY")
        context = vf.ModelContext(model="scripted", client=client)
        async with env.serving():
            return [await env.run_episode(task, context) for task in tasks]

    with scripted_chat(script) as (address, asked):
        return asyncio.run(play(address)), asked


def task_of(env: vf.Env, problem: Problem) -> vf.Task:
    (task,) = (task for task in env.taskset if task.data.problem == problem)
    return task


# ---------------------------------------------------------------- the taskset


def test_it_loads_every_problem_once():
    tasks = list(vf.load_taskset(vf.taskset_config_type(ID).model_validate(taskset())))
    assert [task.data.problem for task in tasks] == [
        problem for task in TASKS for problem in all_problems(task, *SPAN)
    ]
    own = Environment(*SPAN)
    assert all(task.data.prompt == own.solver_text(task.data.problem) for task in tasks)
    assert len({task.key for task in tasks}) == len(tasks)
    again = type(tasks[5].data).model_validate_json(tasks[5].data.model_dump_json())
    assert again == tasks[5].data


@pytest.mark.parametrize("evaluated", [False, True])
def test_what_is_held_out_is_left_out_or_all_there_is(evaluated):
    given = {"id": ID, "max_prime": 61, "held_out": 0.25, "evaluated": evaluated}
    tasks = list(vf.load_taskset(vf.taskset_config_type(ID).model_validate(given)))
    assert tasks and all(is_held_out(t.data.problem, 0.25) is evaluated for t in tasks)


def test_a_range_without_primes_is_refused():
    config = vf.taskset_config_type(ID).model_validate(taskset(min_prime=24, max_prime=28))
    with pytest.raises(ValueError, match="min_prime 24, max_prime 28"):
        list(vf.load_taskset(config))


# ---------------------------------------------------------------- ten thousand texts


def trace_of(task: vf.Task, text: str, agent: str = "agent") -> vf.Trace:
    """A finished trace in which the model said `text`."""
    said = MessageNode(message=vf.AssistantMessage(content=text), sampled=True)
    info = vf.AgentInfo(config=vf.AgentConfig(), name=agent)
    record = vf.TraceTask(type=type(task).__name__, data=task.data)
    return vf.Trace(task=record, agent=info, nodes=[said], ok=True)


@pytest.mark.slow
def test_answers_earn_what_they_earn_in_training(env_file):
    own = Environment(*SPAN)

    async def scored() -> list[float]:
        found = []
        for text, problem, _ in answers:
            task = env_file.question(problem, own)
            trace = trace_of(task, text)
            await task.score(trace)
            found.append(trace.reward)
        return found

    answers = judged_answers()
    assert asyncio.run(scored()) == [reward for _, _, reward in answers]


@pytest.mark.slow
def test_proposals_earn_what_they_earn_in_training(env_file):
    env, own = environment_of(taskset=taskset()), Environment(*SPAN)
    first = {task: env_file.request(all_problems(task, *SPAN)[:1], own) for task in TASKS}

    async def scored(text: str, task: TaskType, attempts: list[str]) -> float:
        proposal = trace_of(first[task], text, "proposer")
        _, problem = env_file.judge_proposal(proposal)
        asked = [env_file.question(problem, own) for _ in attempts] if problem else []
        answers = [trace_of(q, a, "solver") for q, a in zip(asked, attempts, strict=True)]
        record = vf.TraceTask(type="SolverTask", data=first[task].data)
        episode = vf.Episode(env={"id": ID}, task=record, traces=[proposal, *answers])
        await env.finalize(first[task], episode)
        return proposal.reward

    async def all_scored() -> list[float]:
        return [await scored(text, task, attempts) for text, task, attempts, _ in proposals]

    proposals = judged_proposals()
    assert asyncio.run(all_scored()) == [reward for *_, reward in proposals]


# ---------------------------------------------------------------- with a scripted model


def test_answers_of_a_single_agent_are_scored():
    """By hand; the fourth is right but was cut off at its limit."""
    env = environment_of(id="single-agent", taskset=taskset())
    task = task_of(env, Problem(DEDUCTION, 2, 4, 7))
    replies = [f"so {RIGHT}", WRONG, "4", (RIGHT, CUT)]
    episodes, asked = played(env, [task] * 4, replies)
    assert [episode.ok for episode in episodes] == [True] * 4
    traces = [trace for episode in episodes for trace in episode.traces]
    assert [trace.reward for trace in traces] == [1.0, -0.5, -1.0, -1.0]
    assert asked == [Environment(*SPAN).solver_text(task.data.problem)] * 4


def test_a_proposer_is_paid_by_the_attempts_at_its_problem():
    """By hand: 3 of 4 attempts are correct, so it earns 1 - 3/4; the attempts earn their own."""
    env = environment_of(taskset=taskset(), n_attempts=4, n_references=3)
    known = Problem(DEDUCTION, 3, 4, 11)
    episodes, asked = played(env, [task_of(env, known)], [VALID, RIGHT, WRONG, RIGHT, RIGHT])
    (episode,) = episodes
    proposal, *attempts = episode.traces
    assert episode.ok
    assert [trace.agent.name for trace in episode.traces] == ["proposer"] + ["solver"] * 4
    assert proposal.reward == 0.25 and set(proposal.rewards) == {"learnability"}
    assert [trace.reward for trace in attempts] == [1.0, -0.5, 1.0, 1.0]
    assert all(trace.agent.trainable for trace in episode.traces)
    request, *questions = asked
    assert questions == [Environment(*SPAN).solver_text(Problem(DEDUCTION, 2, 4, 7))] * 4
    shown = re.findall(r"^(\d+) \* y ≡ 1 \(mod (\d+)\)$", request, re.M)
    assert len(shown) == 3 and shown[0] == ("3", "11")


@pytest.mark.parametrize(
    "reply, reward",
    [
        (r"\boxed{2 * y ≡ 1 (mod 8)}", -0.5),
        (r"\boxed{2 * y ≡ 1 (mod 17)}", -0.5),  # outside the range
        (r"\boxed{x * 2 ≡ 1 (mod 7)}", -1.0),  # another task's form
        ("2 * y", -1.0),
        ((VALID, CUT), -1.0),
    ],
)
def test_what_is_no_problem_is_not_attempted(reply, reward):
    env = environment_of(taskset=taskset())
    episodes, asked = played(env, [task_of(env, Problem(DEDUCTION, 3, 4, 11))], [reply])
    (proposal,) = episodes[0].traces
    assert episodes[0].ok and proposal.reward == reward and len(asked) == 1


@pytest.mark.parametrize("n_correct, reward", [(0, 0.0), (1, 0.5), (2, 0.0)])
def test_what_is_never_or_always_solved_earns_nothing(n_correct, reward):
    env = environment_of(taskset=taskset(), n_attempts=2)
    replies = [VALID] + [RIGHT] * n_correct + [WRONG] * (2 - n_correct)
    episodes, _ = played(env, [task_of(env, Problem(DEDUCTION, 3, 4, 11))], replies)
    assert episodes[0].traces[0].reward == reward


def test_attempts_at_what_is_held_out_are_not_trained_on():
    space = all_problems(DEDUCTION, 5, 61)
    held_out = next(item for item in space if is_held_out(item, 0.25))
    env = environment_of(taskset=taskset(max_prime=61, held_out=0.25), n_attempts=2)
    proposed = rf"\boxed{{{held_out.x} * y ≡ 1 (mod {held_out.p})}}"
    right = rf"\boxed{{{held_out.y}}}"
    asked = next(task for task in env.taskset if task.data.problem.task is DEDUCTION)
    episodes, _ = played(env, [asked], [proposed, right, "no"])
    proposal, *attempts = episodes[0].traces
    assert proposal.reward == 0.5 and proposal.agent.trainable
    assert len(attempts) == 2 and not any(trace.agent.trainable for trace in attempts)


@pytest.mark.parametrize("replies", [[], [VALID, RIGHT]])
def test_what_the_model_never_answered_is_no_verdict(replies):
    """The endpoint fails at the proposal, or at the second attempt: nobody is paid by guess."""
    env = environment_of(taskset=taskset(), n_attempts=2)
    episodes, _ = played(env, [task_of(env, Problem(DEDUCTION, 3, 4, 11))], replies)
    assert not episodes[0].ok and not episodes[0].traces[0].rewards


def evaluated(line: str, folder: Path, replies: list[str], *changes: str) -> list[list[float]]:
    """The rewards of each episode of a `vf-eval` of the page, with another endpoint and harness."""
    path, command, *words = shlex.split(line)
    name, _, folders = path.partition("=")
    assert (name, command, words[0]) == ("PYTHONPATH", "vf-eval", ID)
    with scripted_chat([(reply, "stop") for reply in replies]) as (address, _):
        words[words.index("--client.base-url") + 1] = address
        subprocess.run(
            [Path(sys.executable).with_name(command), *words, *changes, "--no-rich",
             "--client.api-key-var", "NO_KEY", "--output-dir", folder],
            cwd=ROOT, check=True, capture_output=True, text=True, timeout=300,
            env=os.environ | {name: f"{folders}:tests/helpers", "HOME": str(folder)},
        )  # fmt: skip
    (file,) = folder.rglob("traces.jsonl")
    episodes = map(json.loads, file.read_text().splitlines())
    return [
        [sum(reward["score"] for reward in trace["rewards"].values()) for trace in one["traces"]]
        for one in episodes
    ]


@pytest.mark.slow
def test_the_command_lines_of_the_page_run(tmp_path):
    """By hand: the first task is x * 1 ≡ 1 (mod 5); half of the attempts at the proposal are correct."""
    self_play, alone = re.findall(r"^    (PYTHONPATH=.+)$", PAGE, re.M)
    harness = [f"--env.{seat}.harness.id=one-request" for seat in ("proposer", "solver")]
    replies = [r"\boxed{x * 4 ≡ 1 (mod 7)}", *[r"\boxed{2}", r"\boxed{3}"] * 4]
    found = evaluated(self_play, tmp_path / "1", replies, *harness, "--select.limit", "1")
    assert found == [[0.5, *[1.0, -0.5] * 4]]
    one = alone.replace("harness.id null", "harness.id one-request")
    found = evaluated(one, tmp_path / "2", [r"\boxed{1}"], "--select.limit", "1")
    assert found == [[1.0]]
