"""The environment draws the problems: nobody proposes. What is drawn is never held out.

    uniform       every problem of a task is as likely as every other
    log-uniform   a prime with weight 1 / p, then one of its problems uniformly
    window        uniform over the smallest primes, one prime more every `WINDOW_STEPS` steps
    adaptive      a problem with weight r (1 - r), r its solve rate when it was last attempted

Each draws B problems a task with replacement; what is drawn twice is taught once.
"""

from collections.abc import Mapping, Sequence

from compute.reward import solve_variance
from custom_types import TASKS, Policy, Problem, TaskType
from model.args import AZRArgs
from model.proposers.protocol import Followed, Proposer
from prime_inversion import generate_problems, trained_problems

WINDOW_FIRST = 2  # primes in the window at step 1
WINDOW_STEPS = 3  # after so many steps there is one prime more
UNKNOWN_RATE = 0.5  # taken for the rate of a problem that was never attempted: it weighs most, 1/4
LEAST_WEIGHT = 0.01  # of a problem that is solved never or always


class Environment(Proposer):
    """Nobody proposes: B problems a task are drawn."""

    writes = learns = False

    def taught(self, step: int, valid: Sequence[Problem]) -> list[Problem]:
        drawn = [problem for task in TASKS for problem in self.draw(step, task)]
        return list(dict.fromkeys(drawn))

    def draw(self, step: int, task: TaskType) -> list[Problem]:
        """B problems of a task, with replacement."""
        raise NotImplementedError

    def by_prime(self, task: TaskType) -> dict[int, list[Problem]]:
        """The problems of a task that may be taught by their primes, ascending."""
        found: dict[int, list[Problem]] = {}
        for problem in trained_problems(task, *self.span):
            found.setdefault(problem.p, []).append(problem)
        return found


class Uniform(Environment):
    """Uniformly."""

    def draw(self, step: int, task: TaskType) -> list[Problem]:
        low, high, held_out = self.span
        size, tasks = self.args.batch_size, (task,)
        return generate_problems(size, self.drawing_rng, low, high, tasks=tasks, held_out=held_out)


class LogUniform(Environment):
    """A prime p with weight 1 / p, then one of its problems uniformly."""

    def draw(self, step: int, task: TaskType) -> list[Problem]:
        known, rng = self.by_prime(task), self.drawing_rng
        primes = rng.choices([*known], [1 / p for p in known], k=self.args.batch_size)
        return [rng.choice(known[p]) for p in primes]


class Window(Environment):
    """A curriculum made by hand, by the step number alone: uniformly over the smallest primes that may
    be taught, `WINDOW_FIRST` at first and one more every `WINDOW_STEPS` steps."""

    def draw(self, step: int, task: TaskType) -> list[Problem]:
        width = WINDOW_FIRST + (step - 1) // WINDOW_STEPS
        groups = [*self.by_prime(task).values()][:width]
        inside = [problem for group in groups for problem in group]
        return self.drawing_rng.choices(inside, k=self.args.batch_size)


class Adaptive(Environment):
    """By what is sometimes solved and sometimes not: with weight r (1 - r), `LEAST_WEIGHT` at least. r is
    the solve rate when the problem was last attempted n times, `UNKNOWN_RATE` if it never was."""

    def __init__(self, policy: Policy, args: AZRArgs, followed: Followed):
        super().__init__(policy, args, followed)
        self.rates: dict[Problem, float] = {}

    def draw(self, step: int, task: TaskType) -> list[Problem]:
        space = trained_problems(task, *self.span)
        weights = [self.weight(problem) for problem in space]
        return self.drawing_rng.choices(space, weights, k=self.args.batch_size)

    def weight(self, problem: Problem) -> float:
        """Of a problem in the next draw."""
        return max(LEAST_WEIGHT, solve_variance(self.rates.get(problem, UNKNOWN_RATE)))

    def judged(self, solve_rates: Mapping[Problem, float]) -> None:
        self.rates |= solve_rates

    def state_dict(self) -> dict[str, list]:
        return {"rates": [[str(p.task), p.x, p.y, p.p, r] for p, r in self.rates.items()]}

    def load_state_dict(self, state: dict[str, list]) -> None:
        self.rates = {Problem(TaskType(t), x, y, p): r for t, x, y, p, r in state["rates"]}
