"""A page of the report as it grows: sections of text, tables and charts, and the data that charts name."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape

from custom_types import TASKS
from model.report.charts import curve_chart
from model.report.data import curves
from model.run.finished import FinishedRun


class Page:
    """Sections of text, tables and charts, and the data that the charts name."""

    def __init__(self, grouped: Mapping[str, Sequence[FinishedRun]]):
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
            places.append(f'<div class="chart" id="chart{len(self.charts)}"></div>')
            # What a screen reader calls it: Vega makes an aria-label of the description.
            self.charts.append({"description": chart["title"]["text"], **chart})
        self.parts.append(f'<div class="charts {kind}">{"".join(places)}</div>')

    def add_curves(
        self, data: str, rows: Callable[[FinishedRun], Sequence[Mapping]], keys: Iterable[str]
    ) -> None:
        """Data of a row a step and group, from what `rows` gives of each run."""
        self.data[data] = [
            row
            for name, own in self.grouped.items()
            for row in curves(name, [rows(run) for run in own], list(keys))
        ]

    def by_task(
        self, kind: str, group: str, rows: Callable[[str], list[dict]]
    ) -> Iterator[tuple[str, str, list[dict]]]:
        """Of each task its data's name and rows, which are now the page's."""
        for task in map(str, TASKS):
            data = f"{kind} {list(self.grouped).index(group)} {task}"
            self.data[data] = rows(task)
            yield task, data, self.data[data]

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
