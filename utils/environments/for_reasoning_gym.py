"""For reasoning-gym: the solver's problems as a dataset, registered under the name `prime_inversion` by
importing this file. Its scores lie in 0..1: 1 for a correct answer, 0 for any other."""

from dataclasses import asdict, dataclass
from random import Random
from typing import Any

try:
    from reasoning_gym.factory import ProceduralDataset, register_dataset
except ImportError as error:
    raise ImportError(
        "this dataset needs the package reasoning-gym; pip install reasoning-gym==0.1.25"
    ) from error

from constants import CHAT_TOKENS, DEFAULT_MAX_PRIME, MINIMUM_PRIME
from custom_types import Verdict
from utils.environments.environment import Environment, problem_of, require_integers
from utils.string_formatting import format_answer

NAME = "prime_inversion"


@dataclass
class PrimeInversionConfig:
    """A range of primes, and as `Environment` has it what is left out and how long an answer may be."""

    min_prime: int = MINIMUM_PRIME
    max_prime: int = DEFAULT_MAX_PRIME
    held_out: float = 0.0
    max_answer_tokens: int = CHAT_TOKENS
    seed: int | None = None
    size: int = 500

    def environment(self) -> Environment:
        return Environment(
            self.min_prime,
            self.max_prime,
            self.held_out,
            max_answer_tokens=self.max_answer_tokens,
        )

    def validate(self) -> None:
        """Raises ValueError for what is no such number, and for a range or a share without problems."""
        require_integers(self, "size", least=0)
        if self.seed is not None:
            require_integers(self, "seed")
        self.environment()


class PrimeInversionDataset(ProceduralDataset):
    """`size` solver problems, drawn as training draws them."""

    def __init__(self, config: PrimeInversionConfig) -> None:
        super().__init__(config=config, seed=config.seed, size=config.size)
        self.environment = config.environment()

    def __getitem__(self, idx: int) -> dict[str, Any]:
        r"""The question, its answer as a response ends with it, `\boxed{4}`, and the problem's numbers."""
        (problem,) = self.environment.draw(1, Random(self.seed + idx))
        return {
            "question": self.environment.solver_text(problem),
            "answer": format_answer(problem.solution),
            "metadata": {
                "source_dataset": NAME,
                "source_index": idx,
                **asdict(problem),
                "difficulty": {"p": self.environment.span},
            },
        }

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        r"""1 if the response is correct, 0 if it is wrong, malformed or no text. It is the whole response,
        or a part of it that has the last `\boxed{}`. The range of p is that of the entry, whoever
        scores it. Raises ValueError for an entry of another data set."""
        of_entry = entry["metadata"]
        if (source := of_entry.get("source_dataset")) != NAME:
            raise ValueError(f"entry: must be one of {NAME}, not of {source}")
        if not isinstance(answer, str):
            return 0.0
        problem = problem_of(*(of_entry[name] for name in ("task", "x", "y", "p")))
        environment = Environment(*of_entry["difficulty"]["p"])
        return float(environment.judge_answer(answer, problem) is Verdict.CORRECT)


register_dataset(NAME, PrimeInversionDataset, PrimeInversionConfig)
