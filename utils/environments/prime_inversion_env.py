"""For verifiers: the solver's problems as a taskset, and self-play as an environment, in which one agent
proposes and another attempts what it proposed. The name of this file is the id of both,
`prime-inversion-env`."""

import asyncio
from collections.abc import Iterator
from random import Random

try:
    import verifiers.v1 as vf
    from verifiers.v1.harnesses.null import NullHarnessConfig
except ImportError as error:
    raise ImportError(
        "this environment needs the package verifiers; pip install verifiers==0.4.0"
    ) from error

from pydantic import Field

from constants import (
    CHAT_REFERENCES,
    CHAT_TOKENS,
    DEFAULT_ATTEMPTS,
    DEFAULT_MAX_PRIME,
    MINIMUM_PRIME,
)
from custom_types import Problem, Verdict
from prime_inversion import is_held_out
from utils.environments.environment import Environment, answer_reward, proposal_reward

__all__ = ["PrimeInversionTaskset", "SelfPlayEnv"]


class TextData(vf.TaskData):
    """A question and what judges the response. problem: what is asked of a solver; of a proposer, its
    first reference."""

    problem: Problem
    environment: Environment


def response(trace: vf.Trace) -> tuple[str, bool]:
    """The newest text of an agent, and whether it ended within its limits."""
    said = trace.assistant_messages
    return (said[-1].content or "" if said else ""), not trace.is_truncated


def judge_answer(trace: vf.Trace[TextData]) -> Verdict:
    text, finished = response(trace)
    data = trace.task.data
    return data.environment.judge_answer(text, data.problem, finished)


def judge_proposal(trace: vf.Trace[TextData]) -> tuple[Verdict, Problem | None]:
    text, finished = response(trace)
    data = trace.task.data
    return data.environment.judge_proposal(text, data.problem.task, finished)


class SolverTask(vf.Task[TextData]):
    """A problem to be solved. Its reward is 1, -0.5 or -1, as in training."""

    @vf.reward
    async def answer(self, trace: vf.Trace) -> float:
        return answer_reward(judge_answer(trace))


class ProposerTask(vf.Task[TextData]):
    """A request for a problem, which `SelfPlayEnv` rewards when its problem has been attempted."""


def question(problem: Problem, environment: Environment) -> SolverTask:
    prompt = environment.solver_text(problem)
    return SolverTask(TextData(prompt=prompt, problem=problem, environment=environment))


def request(references: list[Problem], environment: Environment) -> ProposerTask:
    first = references[0]
    prompt = environment.proposer_text(first.task, references)
    return ProposerTask(TextData(prompt=prompt, problem=first, environment=environment))


class PrimeInversionConfig(vf.TasksetConfig):
    """The fields of `Environment` but the language, which is that of chat models, and which problems are
    loaded."""

    min_prime: int = MINIMUM_PRIME
    max_prime: int = DEFAULT_MAX_PRIME
    held_out: float = 0.0
    """Share of the problems that is never trained on."""
    evaluated: bool = False
    """Load what accuracy is measured on, the problems held out, or all where none are; not what may be
    trained on."""
    max_answer_tokens: int = CHAT_TOKENS
    max_proposal_tokens: int = CHAT_TOKENS


class PrimeInversionTaskset(vf.Taskset[SolverTask, PrimeInversionConfig]):
    """The problems of a range, each once."""

    def load(self) -> Iterator[SolverTask]:
        given = self.config
        environment = Environment(
            given.min_prime,
            given.max_prime,
            given.held_out,
            max_answer_tokens=given.max_answer_tokens,
            max_proposal_tokens=given.max_proposal_tokens,
        )
        problems = environment.evaluated() if given.evaluated else environment.trained()
        for problem in problems:
            yield question(problem, environment)


# A conversation on this machine. The default of verifiers is an agent with a shell in a rented sandbox.
CHAT = vf.AgentConfig(harness=NullHarnessConfig(id="null"), runtime=vf.SubprocessConfig())


class SelfPlayConfig(vf.EnvConfig):
    proposer: vf.AgentConfig = CHAT
    solver: vf.AgentConfig = CHAT
    n_attempts: int = Field(DEFAULT_ATTEMPTS, ge=1)
    """n, attempts at a valid proposal."""
    n_references: int = Field(CHAT_REFERENCES, ge=1)
    """K, known problems that the proposer is shown: the task's own and others, drawn uniformly."""


class SelfPlayEnv(vf.Env[SelfPlayConfig]):
    """The proposer writes one problem after references; the solver attempts it n times if it is valid. The
    proposer earns its learnability, each attempt its own reward."""

    async def run(self, task: SolverTask, agents: vf.Agents) -> None:
        known, environment = task.data.problem, task.data.environment
        others = self.config.n_references - 1
        drawn = environment.draw(others, Random(f"{task.data.idx}/references"), (known.task,))
        written = await agents.proposer.run(request([known, *drawn], environment))
        _, problem = judge_proposal(written)
        if problem is None or not written.ok:
            return
        # What is held out is attempted and paid like any other, but not trained on.
        agents.solver.trainable = not is_held_out(problem, environment.held_out)
        async with asyncio.TaskGroup() as attempts:
            for _ in range(self.config.n_attempts):
                attempts.create_task(agents.solver.run(question(problem, environment)))

    async def finalize(self, task: SolverTask, episode: vf.Episode) -> None:
        if not all(trace.ok for trace in episode.traces):
            return  # an attempt that the machine lost says nothing of the problem
        (proposal,) = (trace for trace in episode.traces if trace.agent.name == "proposer")
        attempts = [trace for trace in episode.traces if trace is not proposal]
        verdict, _ = judge_proposal(proposal)
        earned = proposal_reward(verdict, [judge_answer(attempt) for attempt in attempts])
        proposal.record_reward("learnability", earned)
