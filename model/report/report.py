"""The report of one or several runs: one HTML file that needs no network.

Its charts are drawn by Vega-Lite, whose scripts the page holds; text that a model wrote is data in it.
"""

import json
from collections.abc import Sequence
from functools import cache, partial
from html import escape
from operator import attrgetter
from pathlib import Path
from string import Template

from constants import LAST_EVALUATIONS
from custom_types import ROLES, TASKS
from model.report.charts import proposal_map, solve_rate_chart, solved_map, stack_chart
from model.report.data import (
    Grid,
    groups,
    learnability,
    proposals,
    run_row,
    solve_rates,
    solved,
    transcripts,
)
from model.report.page import Page
from model.run.finished import FinishedRun, read_runs
from prime_inversion import primes_between
from utils.files import replace_text

PAGE = Path(__file__).with_name("report.html")
SHARE, REWARD = (0, 1), (-1, 1)


def _by_task(key: str) -> dict[str, str]:
    return {str(task): f"{key}{task}" for task in TASKS}


# Panels of curves: title, series as label -> key, and the range of y where it is known.
ACCURACY = [
    ("Greedy accuracy", _by_task("eval/accuracy_") | {"mean": "eval/accuracy"}, SHARE),
    *(
        (
            f"Proposer, {task}",
            {
                "valid proposals, share": f"valid_frac/{task}",
                "mean reward": f"reward/proposer_{task}",
                "uniform drawing would earn": f"eval/uniform_reward_{task}",
            },
            REWARD,
        )
        for task in TASKS
    ),
    ("Mean reward of answers", _by_task("reward/solver_"), REWARD),
]
PROPOSALS = [
    ("Mean prime of the valid proposals", _by_task("proposed_prime_mean/"), None),
    ("Distinct valid proposals, share of B", _by_task("distinct_frac/"), SHARE),
    ("Novel proposals, share of B", _by_task("novel_frac/"), SHARE),
    ("Solve rate of the proposals", _by_task("solve_rate/"), SHARE),
    ("Problems known", _by_task("buffer/"), None),
]
UPDATE = [
    ("Entropy of a response token, nats", {str(role): f"entropy/{role}" for role in ROLES}, None),
    ("Gradient norm before clipping", {"mean of the updates": "grad_norm"}, None),
    ("Loss", {"mean of the updates": "loss"}, None),
    ("Clip fraction", {"of tokens": "clip_ratio"}, None),
    ("Largest ratio ρ", {"largest": "ratio_max"}, None),
    ("KL estimate, nats", {"mean of the updates": "approx_kl"}, None),
    ("Sampler against training forward, nats", {"largest": "sampling/logp_difference_max"}, None),
    ("Learning rate", {"learning rate": "learning_rate"}, None),
]
SPEED = ("Response tokens a second", {"tokens a second": "perf/tokens_per_second"}, None)
TIME = {"rollout": "time/rollout", "update": "time/update", "evaluation": "time/eval"}
KEYS = [
    key
    for panels in (ACCURACY, PROPOSALS, UPDATE, [SPEED])
    for _, series, _ in panels
    for key in series.values()
]


@cache
def _scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed, as an HTML script may hold them."""
    import vl_convert  # takes its time, and only a page needs it

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def save_report(run_dirs: Sequence[str | Path], path: Path) -> Path:
    """Write the report of all of `run_dirs` to `path`, replacing what is there. Raises
    RunDirectoryError, or OSError where it cannot be written."""
    runs = read_runs(run_dirs)
    page = Page(groups(runs))
    page.add_curves("curves", attrgetter("metrics"), [*KEYS, *TIME.values()])
    for fill in (_runs, _accuracy, _learnability, _proposals, _solved, _update, _time):
        fill(page)
    content = {"charts": page.charts, "data": page.data, "transcripts": transcripts(runs)}
    text = Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Self-play report: {', '.join(run.name for run in runs)}"),
        sections="\n".join(page.parts),
        content=json.dumps(content).replace("<", "\\u003c"),
        scripts=_scripts(),
    )
    replace_text(path, text)
    return path


def _runs(page: Page) -> None:
    page.section(
        "What was run",
        f"Greedy accuracy before training and as the mean of the last {LAST_EVALUATIONS} evaluations.",
    )
    rows = [run_row(name, run) for name, own in page.grouped.items() for run in own]
    page.table(rows)
    for run in (own[0] for own in page.grouped.values()):
        about = {name: value for name, value in run.config.items() if name != "args"}
        text = json.dumps({**run.args, **about}, indent=1, ensure_ascii=False)
        page.parts.append(
            f"<details><summary>arguments and versions of {escape(run.name)}</summary>"
            f"<pre>{escape(text)}</pre></details>"
        )


def _accuracy(page: Page) -> None:
    page.section(
        "Accuracy and rewards",
        "A valid proposal earns 1 - r̄, r̄ the share of attempts at it that were right, and 0 where that "
        "is 0 or 1; an invalid one -0.5, a malformed one -1, unless the arguments above say otherwise. "
        "An answer earns 1, -0.5 if it is wrong, -1 if it cannot be read."
        + (
            " Lines are means of the runs, at the steps that all have, bands reach from the lowest to the highest."
            * page.several["several_runs"]
        ),
    )
    page.row(page.curves(ACCURACY))


def _learnability(page: Page) -> None:
    page.section(
        "Learnability",
        "1 - r̄ of the valid proposals, 0 where r̄ is 0 or 1 and whatever else they earn, and how they "
        "spread over solve rates in each phase of a run; the dotted line is the learnability of a proposal with that solve rate.",
    )
    series = _by_task("learnability/")
    page.add_curves("learnability", learnability, series.values())
    panel = "Mean learnability of the valid proposals", series, SHARE
    charts = page.curves([panel], "learnability")
    for name, own in page.grouped.items():
        for task, data, rows in page.by_task("rates", name, partial(solve_rates, own)):
            title = page.titled(f"Solve rates, {task}", name)
            charts += [solve_rate_chart(title, data)] if rows else []
    page.row(charts)


def _proposals(page: Page) -> None:
    page.section(
        "What the proposer proposed",
        "Below the curves, the problems by p and the number given with it (y in abduction, x elsewhere), or blocks of them, "
        "proposed in each phase: yellow ones are "
        "a third of the phase's valid proposals, dark ones a ten-thousandth, empty ones were not proposed.",
    )
    page.row(page.curves(PROPOSALS))
    for name, own in page.grouped.items():
        grid = _grid(own)
        for task, data, rows in page.by_task("proposed", name, partial(proposals, own, grid=grid)):
            page.row(
                [
                    proposal_map(page.titled(f"{task}, {phase}", name), data, phase, grid)
                    for phase in dict.fromkeys(row["phase"] for row in rows)
                ],
                "maps",
            )


def _solved(page: Page) -> None:
    page.section(
        "What is solved",
        "Each problem, by p and the number given with it, of the last evaluation, or block of them: green was answered, orange was not"
        + (", shades between by some of the runs." if page.several["several_runs"] else "."),
    )
    for name, own in page.grouped.items():
        charts, grid = [], _grid(own)
        for task, data, rows in page.by_task("solved", name, partial(solved, own, grid=grid)):
            count = sum(row["problems"] for row in rows) // len(own)
            title = page.titled(f"{task}, {count} problems", name)
            if rows:
                charts.append(solved_map(title, data, grid, grid.width == len(own) == 1))
        if charts:
            page.row(charts)
        else:
            page.parts.append(
                f"<p>{escape(name)}: the logs do not say which problems were answered.</p>"
            )


def _update(page: Page) -> None:
    page.section(
        "The update",
        "The loss says little: before an update the ratio is 1 and the advantages of a cell add up to 0, "
        "so it is near 0 while the gradient is not.",
    )
    page.row(page.curves(UPDATE))


def _time(page: Page) -> None:
    page.section("Time")
    title = "Seconds, by part" + (", mean of the runs" * page.several["several_runs"])
    if any(row["step"] for row in page.data["curves"]):
        charts = [
            stack_chart(page.titled(title, name), "curves", TIME, name) for name in page.grouped
        ]
        page.row([*charts, *page.curves([SPEED])])


def _grid(runs: Sequence[FinishedRun]) -> Grid:
    return Grid(primes_between(runs[0].args["min_prime"], runs[0].args["max_prime"]))
