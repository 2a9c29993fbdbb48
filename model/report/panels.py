"""The one table of what is drawn of a run's metrics: the panels of its pictures and of its report.

Arguments of the runs come in where a panel has horizontal lines that depend on them: those that all of
the runs share, so that a line is drawn where it is true of each.
"""

from collections.abc import Callable, Mapping
from statistics import fmean

from compute.reward import compute_r_total
from custom_types import ROLES, TASKS, Role, TaskType, Verdict
from model.report.charts import Panel
from prime_inversion import all_problems, guess_rate, primes_between

SHARE, REWARD = (0, 1), (-1, 1)
RANGE = ("min_prime", "max_prime")
TIME = {"rollout": "time/rollout", "update": "time/update", "evaluation": "time/eval"}


def by_task(key: str) -> dict[str, str]:
    """Series of the keys that begin so."""
    return {str(task): f"{key}{task}" for task in TASKS}


def reward_panels(args: Mapping) -> dict[str, Panel]:
    """Accuracy and rewards, each by the name of its picture."""
    best = _level(
        "most that a proposal can earn", most_earned, args, "n_attempts", "reward", "extreme_reward"
    )
    extreme = _level("always or never solved", float, args, "extreme_reward")
    panels = {
        "accuracy": Panel(
            "Greedy accuracy",
            by_task("eval/accuracy_") | {"mean of the tasks": "eval/accuracy"},
            "accuracy",
            SHARE,
            levels={"perfect": 1, **_level("guessing", chance_level, args, *RANGE)},
            dashed={TaskType.DEDUCTION},  # whose mirror image abduction is
        )
    }
    for task in TASKS:
        uniform = "uniform drawing would earn"
        panels[f"proposer_{task}"] = Panel(
            f"Proposer, {task}",
            {
                "mean reward": f"reward/proposer_{task}",
                uniform: f"eval/uniform_reward_{task}",
                "valid proposals, share": f"valid_frac/{task}",
            },
            "reward, share",
            REWARD,
            levels=best | extreme,
            dashed={uniform},
        )
    for task in TASKS:
        panels[f"solver_{task}"] = Panel(
            f"Solver, {task}",
            {
                "mean reward of answers": f"reward/solver_{task}",
                "solve rate of this step's proposals": f"solve_rate/{task}",
            },
            "reward, share",
            REWARD,
            levels={"every answer right": 1},
        )
    return panels


def curriculum_panels(args: Mapping) -> list[Panel]:
    """How large the primes of the proposals are, and how hard the proposals."""
    uniform = _level("", uniform_prime, args, *RANGE)  # lines run across it: y says what it is
    unit = "p; dotted: drawn uniformly" if uniform else "p"
    prime, rate = by_task("proposed_prime_mean/"), by_task("solve_rate/")
    return [
        Panel("Mean prime of the valid proposals", prime, unit, levels=uniform),
        Panel("Solve rate of the proposals", rate, "share of attempts", SHARE),
    ]


PROPOSALS = [
    Panel("Distinct valid proposals", by_task("distinct_frac/"), "share of B", SHARE),
    Panel("Novel proposals", by_task("novel_frac/"), "share of B", SHARE),
    Panel("Problems known", by_task("buffer/"), "problems"),
]
LEARNABILITY = Panel(
    "Mean learnability of the valid proposals", by_task("learnability/"), "reward", SHARE
)
UPDATE = [
    Panel("Entropy", {str(role): f"entropy/{role}" for role in ROLES}, "nats a response token"),
    Panel("Gradient norm before clipping", {"mean of the updates": "grad_norm"}, "norm"),
    Panel("Loss", {"mean of the updates": "loss"}, "loss"),
    Panel("Clip ratio", {"of tokens": "clip_ratio"}, "share of tokens"),
    Panel("Largest ratio ρ", {"largest": "ratio_max"}, "ratio"),
    Panel("KL estimate", {"mean of tokens": "approx_kl"}, "nats"),
    Panel(
        "Sampler against training forward",
        {
            "largest": "sampling/logp_difference_max",
            "mean of tokens": "sampling/logp_difference_mean",
        },
        "nats",
    ),
    Panel("Learning rate", {"learning rate": "learning_rate"}, "learning rate"),
]
SPEED = Panel("Speed", {"speed": "perf/tokens_per_second"}, "response tokens a second")


def most_earned(n_attempts: int, reward: str, extreme_reward: float) -> float:
    """The most that a valid proposal can earn, of all solve rates that n attempts can give it."""
    rates = (right / n_attempts for right in range(n_attempts + 1))
    return max(
        compute_r_total(
            Role.PROPOSER, Verdict.VALID, rate, extreme_reward=extreme_reward, scheme=reward
        )
        for rate in rates
    )


def chance_level(min_prime: int, max_prime: int) -> float:
    """Accuracy of uniform legal guessing over a whole problem space, mean of the tasks."""
    span = min_prime, max_prime
    return fmean(
        fmean(guess_rate(problem, *span) for problem in all_problems(task, *span)) for task in TASKS
    )


def uniform_prime(min_prime: int, max_prime: int) -> float:
    """The mean p of problems drawn uniformly, of which each p has p - 1."""
    primes = primes_between(min_prime, max_prime)
    return sum(p * (p - 1) for p in primes) / sum(p - 1 for p in primes)


def _level(label: str, value: Callable[..., float], args: Mapping, *names: str) -> dict[str, float]:
    """The level that `value` says of the arguments `names`; none where the runs do not share them."""
    return {label: value(*(args[name] for name in names))} if set(names) <= set(args) else {}
