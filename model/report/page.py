"""A page of the report as it grows: sections of text, tables and charts, and the data that charts name."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

from custom_types import TASKS
from model.report.charts import (
    CONFIG,
    SCHEMA,
    TITLE,
    Panel,
    curve_chart,
    known_series,
    pointer,
    shade,
)
from model.report.curves import curves
from model.run.finished import FinishedRun

# What a chart needs to be as wide as its place on the page.
FITTED = {
    "$schema": SCHEMA,
    "width": "container",
    "autosize": {"type": "fit-x", "contains": "padding"},
    "background": None,
    "config": {
        **CONFIG,
        "font": "system-ui, sans-serif",
        "title": {**TITLE, "limit": 330},
    },
}


class Page:
    """Sections of text, tables and charts, and the data that the charts name. grouped: the runs, by the
    names of their groups. shaded: stretches of steps, first and last of each, that curves stand on a band
    in."""

    def __init__(
        self,
        grouped: Mapping[str, Sequence[FinishedRun]],
        shaded: Sequence[tuple[int, int]] = (),
    ):
        self.shaded = shaded
        self.grouped = grouped
        self.several_runs = any(len(runs) > 1 for runs in grouped.values())
        self.html: list[str] = []
        self.charts: list[dict] = []
        self.data: dict[str, list[dict]] = {}

    def section(self, title: str, *paragraphs: str) -> None:
        """A headline and what explains it."""
        self.html.append(f"<h2>{escape(title)}</h2>")
        for text in paragraphs:
            self.paragraph(text)

    def paragraph(self, text: str) -> None:
        self.html.append(f"<p>{escape(text)}</p>")

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        """A line for each of `rows`, under their common keys."""
        lines = [_cells("th", rows[0]), *(_cells("td", row.values()) for row in rows)]
        self.html.append(f'<div class="wide" tabindex="0"><table>{"".join(lines)}</table></div>')

    def details(self, summary: str, text: str) -> None:
        """Text that is shown when its summary is clicked on."""
        self.html.append(
            f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
        )

    def side_by_side(self, charts: Sequence[Mapping], kind: str = "") -> None:
        """Charts in a line, or in several where there is no room."""
        places = []
        for chart in charts:
            places.append(f'<div class="chart" id="chart{len(self.charts)}"></div>')
            # What a screen reader calls it: Vega makes an aria-label of the description.
            self.charts.append({**FITTED, "description": chart["title"]["text"], **chart})
        self.html.append(f'<div class="charts {kind}">{"".join(places)}</div>')

    def add_curves(
        self, data: str, rows: Callable[[FinishedRun], Sequence[Mapping]], keys: Iterable[str]
    ) -> None:
        """Data of a row a step and group, from what `rows` gives of each run."""
        self.data[data] = [
            row
            for name, runs in self.grouped.items()
            for row in curves(name, [rows(run) for run in runs], list(keys))
        ]

    def by_task(
        self, kind: str, group: str, rows: Callable[[str], list[dict]]
    ) -> Iterator[tuple[str, str, list[dict]]]:
        """Of each task its data's name and rows, which are now the page's."""
        for task in map(str, TASKS):
            data = f"{kind} {list(self.grouped).index(group)} {task}"
            self.data[data] = rows(task)
            yield task, data, self.data[data]

    def curves(self, panels: Iterable[Panel], data: str = "curves") -> list[dict]:
        """A chart for each panel of which `data` has anything, which says its values when pointed at."""
        rows, charts = self.data[data], []
        for panel in panels:
            if known_series(panel, rows):
                chart = curve_chart(panel, data, rows)
                bands = [shade(panel, rows, self.shaded)] if self.shaded else []
                layers = [*bands, *chart["layer"], pointer(panel, rows)]
                charts.append({**chart, "layer": layers})
        return charts

    def titled(self, title: str, group: str) -> str:
        """With the group's name where there are several."""
        return f"{title}: {group}" if len(self.grouped) > 1 else title


def _cells(kind: str, texts: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(text)}</{kind}>" for text in texts) + "</tr>"
