"""What travels through the program: enums and frozen dataclasses.

A proposal's life, left to right::

    Prompt -> Response -> Rollout -> Judged -> Scored -> Example -> MiniBatch

Every record carries its own `role` and `task`; nothing downstream infers them from an array
position or a loop variable. Enum values are the strings that metric keys are joined from.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from constants import MAXIMUM_PRIME, PRIMES

if TYPE_CHECKING:
    from torch import Tensor


class TaskType(StrEnum):
    """Which letter of x * y ≡ 1 (mod p) is asked: abduction x, deduction y, induction p."""

    ABDUCTION = "abduction"
    DEDUCTION = "deduction"
    INDUCTION = "induction"

    @property
    def asked(self) -> str:
        """The letter the solver must find: "x", "y" or "p"."""
        return {"abduction": "x", "deduction": "y", "induction": "p"}[self.value]


class Role(StrEnum):
    """The two roles that the one model plays."""

    PROPOSER = "proposer"
    SOLVER = "solver"


class Verdict(StrEnum):
    """MALFORMED for both roles; WRONG or CORRECT for an answer; INVALID or VALID for a proposal."""

    MALFORMED = "malformed"
    WRONG = "wrong"
    CORRECT = "correct"
    INVALID = "invalid"
    VALID = "valid"


TASKS = tuple(TaskType)
ROLES = tuple(Role)
CELLS = tuple((role, task) for role in ROLES for task in TASKS)


def cell_index(role: Role, task: TaskType) -> int:
    """Number of a (role, task) cell, 0..5: `3 * role + task`, proposer before solver."""
    return CELLS.index((role, task))


@dataclass(frozen=True, slots=True)
class Problem:
    """One solved equation x * y ≡ 1 (mod p) and the letter that is asked.

    Cannot be built invalid. Raises ValueError unless x, y and p are ints, p is a prime of at most
    617, 1 <= x, y < p and x * y ≡ 1 (mod p); and for induction x = y = 1, which every prime fits.
    """

    task: TaskType
    x: int
    y: int
    p: int

    def __post_init__(self) -> None:
        if not isinstance(self.task, TaskType):
            raise ValueError(f"task must be a TaskType, not {self.task!r}")
        if any(type(value) is not int for value in (self.x, self.y, self.p)):
            raise ValueError(f"x, y and p must be ints, not {(self.x, self.y, self.p)!r}")
        if self.p not in PRIMES:
            raise ValueError(f"p = {self.p} is not a prime of at most {MAXIMUM_PRIME}")
        if not (1 <= self.x < self.p and 1 <= self.y < self.p):
            raise ValueError(f"x = {self.x}, y = {self.y} must lie in 1..{self.p - 1}")
        if self.x * self.y % self.p != 1:
            raise ValueError(f"{self.x} * {self.y} is not 1 modulo {self.p}")
        if self.task is TaskType.INDUCTION and self.x == self.y == 1:
            raise ValueError("x = y = 1 is no induction problem: every prime fits")

    @property
    def solution(self) -> int:
        """The value of the asked letter. Other primes may answer an induction problem too."""
        return getattr(self, self.task.asked)


@dataclass(frozen=True, slots=True)
class Equation:
    """A proposer's well-formed equation; the asked letter is None. Nothing is checked but its form."""

    x: int | None
    y: int | None
    p: int | None


@dataclass(frozen=True)
class PromptSet:
    """The texts of one prompt language; `prompts.py` says what the fields may name.

    solver, proposer: the whole text, by task. reference: how a proposer is shown a known problem, of
    which `first_references` are always the same; example: how a solver is shown one of the `examples`
    worked ones; both are joined by separators.
    """

    name: str
    solver: dict[TaskType, str]
    proposer: dict[TaskType, str]
    reference: str
    reference_separator: str
    first_references: int = 0
    examples: int = 0
    example: str = ""
    example_separator: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question to the policy. For a proposer, `problem` is its first reference.

    ids: what the policy reads. max_tokens: what its response may have, end token included.
    """

    role: Role
    task: TaskType
    problem: Problem
    text: str
    ids: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Response:
    """T >= 1 sampled ids, the stop id among them when finished, and their T log-probabilities."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response, ragged and unpadded.

    prompt_ids: the P ids the model read. response_ids: the T >= 1 ids it sampled, the end token
    among them when `finished`. old_logprobs: T floats, nats, log-probability of each response id
    under the weights that sampled it. text: the response without its end token, as it is judged.
    """

    role: Role
    task: TaskType
    problem: Problem
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    old_logprobs: tuple[float, ...]
    text: str
    finished: bool

    @classmethod
    def of(cls, prompt: Prompt, response: Response, text: str) -> "Rollout":
        """A response to a prompt, whose text is `text`."""
        asked = prompt.role, prompt.task, prompt.problem, prompt.ids
        return cls(*asked, response.ids, response.logprobs, text, response.finished)

    @property
    def cell(self) -> int:
        return cell_index(self.role, self.task)


@dataclass(frozen=True, slots=True)
class Judged:
    """A rollout with what the verifier said of it. proposed: the problem of a VALID proposal, None for
    everything else."""

    rollout: Rollout
    verdict: Verdict
    proposed: Problem | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A judged rollout with what it earns. cost: what its advantage loses because other proposals of
    its cell are the same problem, in standard deviations of the cell's rewards."""

    rollout: Rollout
    verdict: Verdict
    reward: float
    cost: float = 0.0
    proposed: Problem | None = None


@dataclass(frozen=True)
class Round:
    """What one rollout phase did.

    proposals: all of them, scored. novel: the problems that were not known before, each once.
    solve_rates: r̄ of each problem that was attempted n times. answers: the answers that are trained
    on, scored; the first `taught` of them are to problems of this step, the others to problems that
    the buffer filled up with. completions: everything that was sampled.
    """

    proposals: tuple[Scored, ...]
    novel: tuple[Problem, ...]
    solve_rates: dict[Problem, float]
    answers: tuple[Scored, ...]
    taught: int
    completions: tuple[Rollout, ...]

    @property
    def scored(self) -> tuple[Scored, ...]:
        """Proposals, then answers."""
        return self.proposals + self.answers


@dataclass(frozen=True)
class Learned:
    """What one learning phase did. scored: the rollouts it trained on, with their advantages in the
    same order. metrics: of its updates."""

    scored: tuple[Scored, ...]
    advantages: tuple[float, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Step:
    """One self-play step: what was played, what was learned from it, and its metrics."""

    played: Round
    learned: Learned
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Example:
    """What an update learns from: a rollout, its advantage, what it weighs in the objective, and how
    many equal rollouts it stands for."""

    rollout: Rollout
    advantage: float
    weight: float = 1.0
    count: int = 1


@dataclass(frozen=True)
class MiniBatch:
    """Rows of prompts and responses, each a prefix tree as `buffer/packing.py` packs it, and what
    the n responses in them are scored by; made by `collate`, the only padded thing. A row that holds
    one response is `[prompt][response][right pad]`.

    What the model reads: input_ids, position_ids (rows, time) int64, positions counted from the start
    of each prompt; attention_mask (rows, 1, time, time) bool, entry [r, 0, i, j] true where position i
    sees position j: its own prompt and response so far.

    What is scored: targets (n, length) int64, the response ids, end token included; sources
    (n, length) int64, row * time + position of the token before each, whose logits predict it;
    response_mask (n, length) bool, true on response tokens; old_logprobs (n, length) float32, 0
    outside the mask; advantages, weights, counts (n,) float32; cells (n,) int64 in 0..5.
    """

    input_ids: "Tensor"
    position_ids: "Tensor"
    attention_mask: "Tensor"
    targets: "Tensor"
    sources: "Tensor"
    response_mask: "Tensor"
    old_logprobs: "Tensor"
    advantages: "Tensor"
    weights: "Tensor"
    counts: "Tensor"
    cells: "Tensor"

    def to(self, device: Any) -> "MiniBatch":
        """The same rows on another device."""
        return MiniBatch(
            **{item.name: getattr(self, item.name).to(device) for item in fields(self)}
        )


@dataclass(frozen=True)
class Policy:
    """A causal language model and what it takes to talk to it.

    stop_ids: every id that ends a response. pad_id: what fills padded rows (never read).
    prompts: the prompt language this policy was made for. origin: of a policy with adapters, what
    `model/policy/origin.py` says of the frozen weights and the tokenizer. engine: how it samples and
    scores, "shared" or "plain"; `model/engine/probe.py` decides it. decode: how the shared one decodes,
    "eager" or "graph".
    """

    name: str
    model: Any
    tokenizer: Any
    prompts: PromptSet
    stop_ids: tuple[int, ...]
    pad_id: int
    origin: dict[str, Any] | None = None
    engine: str = "shared"
    decode: str = "eager"
