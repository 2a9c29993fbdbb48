"""Finished runs of a study in, its tables and its figure out.

What they are made of is kept in one file, a line a run, so that they can be made again without the run
directories: condition, seed, commit, arguments, and every row of `metrics.jsonl`.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from scipy import stats

from constants import LAST_EVALUATIONS
from custom_types import TASKS
from model.eval.contrasts import bootstrap_interval, holm, paired_contrast
from model.report.charts import Panel, curve_chart
from model.report.curves import curves
from model.report.pictures import save_picture, separate, sized
from model.run.finished import FinishedRun, evaluated_rows
from utils.tables import markdown_table

GOAL = 0.9
PLACES = {"run_dir", "run_name", "resume", "yoked_to"}  # of one machine, and told by the condition
USES = ("taught", "refill", "untrained")  # of an answer, as the metrics name them


@dataclass(frozen=True)
class StudyRun:
    """One run of a study."""

    condition: str
    seed: int
    commit: str | None
    args: Mapping
    metrics: Sequence[Mapping]

    @classmethod
    def of(cls, condition: str, run: FinishedRun) -> "StudyRun":
        """What a study keeps of a finished run. Raises RunDirectoryError."""
        args = {key: value for key, value in run.config["args"].items() if key not in PLACES}
        metrics = [dict(row) for row in run.metrics]
        return cls(condition, run.args["seed"], run.git_commit, args, metrics)

    @cached_property
    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps, answers trained on so far (B n a task and step, which a study assumes) and mean greedy
        accuracy at each evaluation."""
        points = [(row["step"], row["eval/accuracy"]) for row in evaluated_rows(self.metrics)]
        steps, accuracy = np.array(points).T
        return steps, steps * self.answers_a_step, accuracy

    @property
    def answers_a_step(self) -> int:
        return len(TASKS) * self.args["batch_size"] * self.args["n_attempts"]

    @property
    def area(self) -> float:
        """Under the accuracy curve, by trapezoids, over its length: a mean accuracy, 0 to 1."""
        steps, _, accuracy = self.curve
        if len(steps) == 1:
            return float(accuracy[0])
        return float(np.trapezoid(accuracy, steps) / (steps[-1] - steps[0]))

    @property
    def final(self) -> float:
        """The mean accuracy of the last evaluations."""
        return float(self.curve[2][-LAST_EVALUATIONS:].mean())

    @cached_property
    def tokens(self) -> np.ndarray:
        """Response tokens sampled so far at each evaluation, those of proposals included."""
        return np.array([row.get("num_tokens", 0) for row in evaluated_rows(self.metrics)])

    def area_over(self, tokens: int) -> float:
        """Under the accuracy curve until so many tokens have been sampled, over their number; a run that
        ended before that keeps its last accuracy."""
        spent, accuracy = self.tokens, self.curve[2]
        within = spent < tokens
        until = np.append(spent[within], tokens)
        return float(np.trapezoid(np.interp(until, spent, accuracy), until) / tokens)

    @property
    def reached(self) -> tuple[float, float] | None:
        """Steps and answers trained on to the goal; None where it was not met."""
        steps, spent, accuracy = self.curve
        if not (accuracy >= GOAL).any():
            return None
        first = int((accuracy >= GOAL).argmax())
        return steps[first], spent[first]

    @property
    def answers_to_goal(self) -> float:
        """Answers trained on to the goal; infinitely many where it was not met."""
        return float("inf") if self.reached is None else self.reached[1]

    def tokens_to(self, goal: float, most: int) -> float:
        """Tokens sampled until accuracy was the goal, by a straight line between evaluations; infinitely
        many where that was not within `most`."""
        spent, accuracy = self.tokens, self.curve[2]
        above = accuracy >= goal
        if not above.any():
            return float("inf")
        first = int(above.argmax())
        if first == 0:
            return float(spent[0])
        share = (goal - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
        found = float(spent[first - 1] + share * (spent[first] - spent[first - 1]))
        return found if found <= most else float("inf")

    def mean(self, key: str, last: int | None = None) -> float | None:
        """Of a metric over the steps, or the last of them; None where none has it."""
        steps = self.metrics[1:] if last is None else self.metrics[1:][-last:]
        known = [row[key] for row in steps if row.get(key) is not None]
        return fmean(known) if known else None


class Endpoint(NamedTuple):
    """What the runs of a study are compared by. area: under the accuracy curve, of a run. last: its
    accuracy where that ends, which `end` names. spent: to the goal, infinitely much where it was not met.
    unit: of what is spent, which `axis` says in a figure. until: spent up to a step. columns: further
    ones of the table of arms, of the runs of an arm."""

    goal: float
    unit: str
    axis: str
    end: str
    area: Callable[[StudyRun], float]
    last: Callable[[StudyRun], float]
    spent: Callable[[StudyRun], float]
    until: Callable[[StudyRun, int], float]
    columns: Mapping[str, Callable[[Sequence[StudyRun]], str]] = {}

    def reached(self, runs: Iterable[StudyRun]) -> int:
        """How many runs met the goal."""
        return sum(self.spent(run) < float("inf") for run in runs)


BY_ANSWERS = Endpoint(  # all conditions train on as many a step
    GOAL,
    "answers",
    "answers trained on",
    "final accuracy",
    area=lambda run: run.area,
    last=lambda run: run.final,
    spent=lambda run: run.answers_to_goal,
    until=lambda run, step: step * run.answers_a_step,
)


def by_tokens(budget: int, goal: float) -> Endpoint:
    """Over all sampled tokens, proposals included, up to a budget."""
    return Endpoint(
        goal,
        "tokens",
        "tokens sampled",
        f"accuracy at {budget:,}",
        area=lambda run: run.area_over(budget),
        last=lambda run: float(np.interp(budget, run.tokens, run.curve[2])),
        spent=lambda run: run.tokens_to(goal, budget),
        until=lambda run, step: run.metrics[step].get("num_tokens", 0),
        columns={"least tokens": lambda runs: f"{min(run.tokens[-1] for run in runs):,.0f}"},
    )


def save_runs(runs: Iterable[StudyRun], path: Path) -> None:
    """Write a file that `load_runs` reads: the same runs give the same bytes."""
    text = "".join(json.dumps(asdict(run), ensure_ascii=False) + "\n" for run in runs)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def load_runs(path: Path) -> list[StudyRun]:
    """What `save_runs` wrote. Raises OSError or ValueError."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return [StudyRun(**json.loads(line)) for line in lines]


def by_condition(runs: Iterable[StudyRun]) -> dict[str, list[StudyRun]]:
    """Runs by their condition, those of each by seed."""
    found: dict[str, list[StudyRun]] = {}
    for run in runs:
        found.setdefault(run.condition, []).append(run)
    return {name: sorted(runs, key=lambda run: run.seed) for name, runs in found.items()}


# ---------------------------------------------------------------- tables


def interval(values: Sequence[float]) -> str:
    """Mean and the half-width of its 95% interval over seeds; the mean alone for one seed."""
    if not values:
        return "-"
    mean = fmean(values)
    if len(values) < 2:
        return f"{mean:.3g}"
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{mean:.3g} ± {half:.2g}"


def controls_table(results: Mapping[str, Sequence[StudyRun]]) -> str:
    """Markdown: final accuracy, what it took to the goal, valid proposals of the last 20 steps."""
    rows = []
    for name, runs in results.items():
        took = [run.reached for run in runs if run.reached is not None]
        valid = [run.mean(f"valid_frac/{task}", last=20) for run in runs for task in TASKS]
        known = [value for value in valid if value is not None]
        steps, answers = (interval([values[k] for values in took]) for k in range(2))
        rows.append(
            {
                "condition": name,
                "seeds": str(len(runs)),
                "area under the curve": interval([run.area for run in runs]),
                "final accuracy": interval([run.final for run in runs]),
                f"reached {GOAL}": f"{len(took)} of {len(runs)}",
                "steps to it": steps,
                "answers to it": answers,
                "valid proposals": f"{fmean(known):.2f}" if known else "-",
            }
        )
    return markdown_table(rows)


def arms_table(results: Mapping[str, Sequence[StudyRun]], endpoint: Endpoint = BY_ANSWERS) -> str:
    """Markdown: the endpoint of each arm, what it took to the goal where a run that did not get there
    counts as later than all that did, and what its answers were for."""
    rows = []
    for name, runs in results.items():
        areas = [endpoint.area(run) for run in runs]
        took = sorted(endpoint.spent(run) for run in runs)
        shares = {use: [run.mean(f"answer_frac/{use}") or 0.0 for run in runs] for use in USES}
        rows.append(
            {
                "arm": name,
                "seeds": str(len(runs)),
                "area under the curve": _with_interval(areas),
                endpoint.end: f"{fmean(map(endpoint.last, runs)):.3f}",
                **{name: said(runs) for name, said in endpoint.columns.items()},
                f"reached {endpoint.goal}": f"{endpoint.reached(runs)} of {len(runs)}",
                f"median {endpoint.unit} to it": _answers(median(took)),
                **{f"answers {use}": f"{fmean(share):.2f}" for use, share in shares.items()},
            }
        )
    return markdown_table(rows)


def _with_interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    low, high = bootstrap_interval(values)
    return f"{fmean(values):.3f} ({low:.3f} to {high:.3f})"


def _answers(number: float) -> str:
    return "not reached" if np.isinf(number) else f"{number:,.0f}"


def contrasts_table(
    results: Mapping[str, Sequence[StudyRun]],
    contrasts: Sequence[tuple[str, str]],
    endpoint: Endpoint = BY_ANSWERS,
) -> str:
    """Markdown: the endpoint's paired difference of each pair of conditions, over the seeds that both
    have, with Holm's correction over all of them; and on how many seeds the first was sooner at the
    goal than the second, and later."""
    rows, found = [], []
    for ours, theirs in contrasts:
        one, other = ({run.seed: run for run in results[name]} for name in (ours, theirs))
        seeds = sorted(one.keys() & other.keys())
        if len(seeds) < 2:
            continue
        found.append(
            paired_contrast(
                [endpoint.area(one[seed]) for seed in seeds],
                [endpoint.area(other[seed]) for seed in seeds],
            )
        )
        both = [(endpoint.spent(one[seed]), endpoint.spent(other[seed])) for seed in seeds]
        rows.append(
            {
                "contrast": f"{ours} - {theirs}",
                "pairs": str(len(seeds)),
                "difference in area": f"{found[-1].mean:+.3f}",
                "95% interval": f"{found[-1].low:+.3f} to {found[-1].high:+.3f}",
                "p": f"{found[-1].p:.3f}",
                f"sooner at {endpoint.goal}": str(sum(mine < their for mine, their in both)),
                "later": str(sum(mine > their for mine, their in both)),
            }
        )
    for row, adjusted in zip(rows, holm([one.p for one in found]), strict=True):
        row["p"] = f"{adjusted:.3f}"
    return markdown_table(rows) if rows else ""


# ---------------------------------------------------------------- figure


def save_figure(
    panels: Mapping[str, Mapping[str, Sequence[StudyRun]]],
    path: Path,
    endpoint: Endpoint = BY_ANSWERS,
    watched: Mapping[str, tuple[Mapping[str, str], str]] | None = None,
    own: Sequence[StudyRun] = (),
) -> None:
    """Accuracy against what the endpoint counts: of each condition the mean over seeds, and their range.
    Tokens are the mean over seeds at each step. watched: further panels by title, series and unit of
    each, of the runs `own`."""
    charts, data, key, unit = [], {}, "eval/accuracy", endpoint.unit

    def placed(runs: Sequence[StudyRun], row: dict) -> dict:
        return row | {unit: fmean(endpoint.until(run, row["step"]) for run in runs)}

    for title, conditions in panels.items():
        data[title] = [
            placed(runs, row)
            for name, runs in conditions.items()
            for row in curves(name, [run.metrics for run in runs], [key])
            if key in row
        ]
        panel = Panel(
            title,
            {"accuracy": key},
            "greedy accuracy, mean of the tasks",
            (0, 1),
            levels={f"goal, {endpoint.goal}": endpoint.goal},
            x=unit,
            x_title=endpoint.axis,
        )
        charts.append(sized(curve_chart(panel, title, data[title]), height=220))
    for title, (series, said) in (watched or {}).items():
        data[title] = [
            placed(own, row)
            for row in curves("self", [run.metrics[1:] for run in own], series.values())
        ]
        panel = Panel(title, series, said, x=unit, x_title=endpoint.axis)
        charts.append(sized(curve_chart(panel, title, data[title]), height=220))
    save_picture(separate(charts), data, path)
