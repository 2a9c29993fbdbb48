"""The report of one or several runs: one HTML file that needs no network.

Its charts are drawn by Vega-Lite, whose scripts the page holds; text that a model wrote is data in it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from constants import LAST_EVALUATIONS
from custom_types import ROLES, TASKS
from prime_inversion import primes_between
from utils.checkpoints import replace_text
from utils.report_charts import curve_chart, proposal_map, solve_rate_chart, solved_map, stack_chart
from utils.report_data import (
    Grid,
    Run,
    curves,
    groups,
    learnability,
    proposals,
    read_runs,
    run_row,
    solve_rates,
    solved,
    transcripts,
)

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


class Page:
    """Sections of text, tables and charts, and the data that the charts name."""

    def __init__(self, grouped: Mapping[str, Sequence[Run]]):
        self.grouped = grouped
        self.several = dict(
            several_runs=any(len(own) > 1 for own in grouped.values()),
            groups=list(grouped),
        )
        self.parts: list[str] = []
        self.charts: list[dict] = []
        self.data: dict[str, list[dict]] = {}

    def section(self, title: str, *paragraphs: str) -> None:
        """A headline and what explains it."""
        self.parts.append(f"<h2>{escape(title)}</h2>")
        self.parts += [f"<p>{escape(text)}</p>" for text in paragraphs]

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        """A line for each of `rows`, under their common keys."""
        lines = [_cells("th", rows[0]), *(_cells("td", row.values()) for row in rows)]
        self.parts.append(f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>')

    def row(self, charts: Sequence[Mapping], kind: str = "") -> None:
        """Charts side by side, as many as there is room for."""
        places = []
        for chart in charts:
            title = escape(chart["title"]["text"])
            places.append(
                f'<div class="chart" id="chart{len(self.charts)}" role="img" aria-label="{title}"></div>'
            )
            self.charts.append(dict(chart))
        self.parts.append(f'<div class="charts {kind}">{"".join(places)}</div>')

    def curves(self, panels: Sequence[tuple], data: str = "curves") -> list[dict]:
        """A chart for each panel of which `data` has anything; its range grows where a value leaves it."""
        known = Counter(key for row in self.data[data] for key in row)
        charts = []
        for title, series, span in panels:
            own = [key for key in series.values() if key in known]
            ends = [f"{key}{end}" for key in own for end in ("", " low", " high")]
            values = [row[key] for row in self.data[data] for key in ends if key in row]
            if own:
                domain = span and (min(span[0], *values), max(span[1], *values))
                chart = curve_chart(title, data, series, domain=domain, known=known, **self.several)
                charts.append(chart)
        return charts

    def titled(self, title: str, group: str) -> str:
        """With the group's name where there are several."""
        return f"{title}: {group}" if len(self.grouped) > 1 else title


def _cells(kind: str, texts) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(text)}</{kind}>" for text in texts) + "</tr>"


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
    for name, own in page.grouped.items():
        rows = curves(name, own, [*KEYS, *TIME.values()])
        page.data["curves"] = page.data.get("curves", []) + rows
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
            " Lines are means of the runs that have a step, bands reach from the lowest to the highest."
            * page.several["several_runs"]
        ),
    )
    page.row(page.curves(ACCURACY))


def _learnability(page: Page) -> None:
    page.section(
        "Learnability",
        "1 - r̄ of the valid proposals, 0 where r̄ is 0 or 1 and whatever else they earn, and how they spread over solve rates in each phase of a run; "
        "the dotted line is the learnability of a proposal with that solve rate.",
    )
    for name, own in page.grouped.items():
        rows = learnability(name, own)
        page.data["learnability"] = page.data.get("learnability", []) + rows
    panel = "Mean learnability of the valid proposals", _by_task("learnability/"), SHARE
    charts = page.curves([panel], "learnability")
    for index, (name, own) in enumerate(page.grouped.items()):
        for task in map(str, TASKS):
            page.data[f"rates {index} {task}"] = rows = solve_rates(own, task)
            title = page.titled(f"Solve rates, {task}", name)
            charts += [solve_rate_chart(title, f"rates {index} {task}")] if rows else []
    page.row(charts)


def _proposals(page: Page) -> None:
    page.section(
        "What the proposer proposed",
        "Below the curves, the problems (x, p), or blocks of them, proposed in each phase: yellow ones are a third of the "
        "phase's valid proposals, dark ones a ten-thousandth, empty ones were not proposed.",
    )
    page.row(page.curves(PROPOSALS))
    for index, (name, own) in enumerate(page.grouped.items()):
        grid = _grid(own)
        for task in map(str, TASKS):
            data = f"proposed {index} {task}"
            page.data[data] = rows = proposals(own, task, grid)
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
        "Each problem (x, p) of the last evaluation, or block of them: green was answered, orange was not"
        + (", shades between by some of the runs." if page.several["several_runs"] else "."),
    )
    for index, (name, own) in enumerate(page.grouped.items()):
        charts, grid = [], _grid(own)
        for task in map(str, TASKS):
            data = f"solved {index} {task}"
            page.data[data] = rows = solved(own, task, grid)
            title = page.titled(
                f"{task}, {sum(row['problems'] for row in rows) // len(own)} problems", name
            )
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


def _grid(runs: Sequence[Run]) -> Grid:
    return Grid(primes_between(runs[0].args["min_prime"], runs[0].args["max_prime"]))
