"""The report of one or several runs: one HTML file that needs no network.

Run directories go in, a page comes out: sections, each of them text and panels. Its charts are drawn by
Vega-Lite, whose scripts the page holds; text that a model wrote is data in it.
"""

import json
from collections.abc import Sequence
from functools import cache, partial
from html import escape
from operator import attrgetter
from pathlib import Path
from string import Template

import vl_convert

from compute.symptoms import STEPS
from constants import LAST_EVALUATIONS
from model.report.charts import Panel, proposal_maps, solve_rate_chart, solved_map, stack_chart
from model.report.curriculum import Grid, learnability, proposals, solve_rates, solved
from model.report.data import (
    common_args,
    groups,
    run_row,
    transcripts,
    warned_stretches,
    warning_rows,
)
from model.report.page import Page
from model.report.panels import (
    LEARNABILITY,
    PROPOSALS,
    SPEED,
    TIME,
    UPDATE,
    curriculum_panels,
    reward_panels,
)
from model.run.finished import FinishedRun, read_runs
from prime_inversion import primes_between
from utils.files import replace_text

TEMPLATE = Path(__file__).with_name("report.html")


@cache  # 1.6 seconds each time
def _scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed, as an HTML script may hold them."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace(
        "</script", "<\\/script"
    )


def save_report(run_dirs: Sequence[str | Path], path: Path) -> Path:
    """Write the report of all of `run_dirs` to `path`, replacing what is there. Raises
    RunDirectoryError, or OSError where it cannot be written."""
    runs = read_runs(run_dirs)
    args, page = common_args(runs), Page(groups(runs), warned_stretches(runs))
    rewards = list(reward_panels(args).values())
    proposed = [*curriculum_panels(args), *PROPOSALS]
    panels = [*rewards, *proposed, *UPDATE, SPEED]
    keys = [key for panel in panels for key in panel.series.values()]
    page.add_curves("curves", attrgetter("metrics"), [*keys, *TIME.values()])

    _runs(page)
    _warnings(page, runs)
    _rewards(page, rewards)
    _learnability(page)
    _proposals(page, proposed)
    _solved(page)
    _update(page)
    _time(page)

    content = {"charts": page.charts, "data": page.data, "transcripts": transcripts(runs)}
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Self-play report: {', '.join(run.name for run in runs)}"),
        sections="\n".join(page.html),
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
    page.table([run_row(name, run) for name, runs in page.grouped.items() for run in runs])
    for first, *_ in page.grouped.values():
        about = {name: value for name, value in first.config.items() if name != "args"}
        text = json.dumps({**first.args, **about}, indent=1, ensure_ascii=False)
        page.details(f"arguments and versions of {first.name}", text)


def _warnings(page: Page, runs: Sequence[FinishedRun]) -> None:
    """Nothing where there is nothing to warn of."""
    rows = warning_rows(runs)
    if rows:
        page.section(
            "Warnings",
            f"Signs that a run has gone wrong, each from the {STEPS}th step in a row in which it was seen; "
            "the curves below have a band in these steps"
            + (", whichever run it is." if len(runs) > 1 else "."),
        )
        page.table(rows)


def _rewards(page: Page, panels: Sequence[Panel]) -> None:
    page.section(
        "Accuracy and rewards",
        "A valid proposal earns 1 - r̄, r̄ the share of attempts at it that were right, and 0 where that "
        "is 0 or 1; an invalid one -0.5, a malformed one -1, unless the arguments above say otherwise. "
        "An answer earns 1, -0.5 if it is wrong, -1 if it cannot be read."
        + (
            " Lines are means of the runs, at the steps that all have, bands reach from the lowest to the highest."
            * page.several_runs
        ),
    )
    page.side_by_side(page.curves(panels))


def _learnability(page: Page) -> None:
    page.section(
        "Learnability",
        "1 - r̄ of the valid proposals, 0 where r̄ is 0 or 1 and whatever else they earn, and how they "
        "spread over solve rates in each phase of a run; the dotted line is the learnability of a proposal with that solve rate.",
    )
    page.add_curves("learnability", learnability, LEARNABILITY.series.values())
    charts = page.curves([LEARNABILITY], "learnability")
    for name, runs in page.grouped.items():
        for task, data, rows in page.by_task("rates", name, partial(solve_rates, runs)):
            title = page.titled(f"Solve rates, {task}", name)
            charts += [solve_rate_chart(title, data)] if rows else []
    page.side_by_side(charts)


def _proposals(page: Page, panels: Sequence[Panel]) -> None:
    page.section(
        "What the proposer proposed",
        "Below the curves, the problems by p and the number given with it (y in abduction, x elsewhere), or blocks of them, "
        "proposed in each phase; empty ones were not proposed.",
    )
    page.side_by_side(page.curves(panels))
    for name, runs in page.grouped.items():
        grid = _grid(runs)
        for task, data, rows in page.by_task("proposed", name, partial(proposals, runs, grid=grid)):
            page.side_by_side(proposal_maps(page.titled(task, name), data, rows, grid), "maps")


def _solved(page: Page) -> None:
    page.section(
        "What is solved",
        "Each problem, by p and the number given with it, of the last evaluation, or block of them: green was answered, orange was not"
        + (", shades between by some of the runs." if page.several_runs else "."),
    )
    for name, runs in page.grouped.items():
        charts, grid = [], _grid(runs)
        for task, data, rows in page.by_task("solved", name, partial(solved, runs, grid=grid)):
            count = sum(row["problems"] for row in rows) // len(runs)
            title = page.titled(f"{task}, {count} problems", name)
            if rows:
                charts.append(solved_map(title, data, grid, grid.width == len(runs) == 1))
        if charts:
            page.side_by_side(charts)
        else:
            page.paragraph(f"{name}: the logs do not say which problems were answered.")


def _update(page: Page) -> None:
    page.section(
        "The update",
        "The loss says little: before an update the ratio is 1 and the advantages of a cell add up to 0, "
        "so it is near 0 while the gradient is not.",
    )
    page.side_by_side(page.curves(UPDATE))


def _time(page: Page) -> None:
    page.section("Time")
    title = "Seconds of a step" + (", mean of the runs" * page.several_runs)
    if any(row["step"] for row in page.data["curves"]):
        charts = [
            stack_chart(page.titled(title, name), "curves", TIME, name) for name in page.grouped
        ]
        page.side_by_side([*charts, *page.curves([SPEED])])


def _grid(runs: Sequence[FinishedRun]) -> Grid:
    return Grid(primes_between(runs[0].args["min_prime"], runs[0].args["max_prime"]))
