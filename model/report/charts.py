"""Every chart of the project, as Vega-Lite specifications: https://vega.github.io/vega-lite/docs/.

A panel and the rows it is drawn from go in, a chart comes out. A chart names its data and has no width:
whoever shows it, a page or a picture, gives it both. Example: `curve_chart(Panel("Loss", {"mean":
"loss"}, "loss"), "curves", rows)` draws the key `loss` of `rows` against their key `step`, and a page
then holds those rows once, under the name `curves`, for all of its charts.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from model.report.curriculum import Grid

# Colour-blind readers tell them apart, on white and on dark. Okabe and Ito's first, then those of a grid
# of colours that are farthest from each other as Machado's model of colour blindness shows them.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#7a2ff0", "#dd99cc", "#aabb66", "#994433")
RIGHT, WRONG = PALETTE[2], PALETTE[1]
GREY = "#808080"
SOLID, DASHED, DOTTED = [1, 0], [6, 3], [2, 3]
STROKES = {"symbolType": "stroke", "symbolSize": 300, "symbolStrokeWidth": 2, "symbolOpacity": 1}
DASHES = (SOLID, DASHED, DOTTED, [8, 2, 2, 2])
SHARES = (1e-4, 0.3)  # of a phase's proposals, from the dark end of the scale to the bright one
ONCE: dict[str, list[dict]] = {"values": [{}]}  # data of a mark that is drawn once
HEIGHT = 190
MARKED_POINTS = 60  # a line through fewer points shows them
SMALL_NUMBERS = (
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '.1e') : datum.label"
)
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
TITLE = {"anchor": "start", "fontWeight": 600, "fontSize": 13}
CONFIG = {
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelFlush": False,
        "gridColor": "#e4e4e4",
    },
    "legend": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
    },
    "title": TITLE,
}


@dataclass(frozen=True)
class Panel:
    """What a chart of curves shows.

    series: label -> key of the rows. unit: what y is. span: the range of y, which grows where a value
    leaves it; as far as the values go where it is None. levels: label -> value of a horizontal line; the
    label is empty where `unit` says what the line is. dashed: labels of lines that may hide another one.
    x: the key of x, x_title what it is. scale: of both axes, as Vega-Lite names it.
    """

    title: str
    series: Mapping[str, str]
    unit: str
    span: tuple[float, float] | None = None
    levels: Mapping[str, float] = field(default_factory=dict)
    dashed: Collection[str] = ()
    x: str = "step"
    x_title: str = "self-play step"
    scale: str = "linear"


def known_series(panel: Panel, rows: Sequence[Mapping]) -> dict[str, str]:
    """The series of a panel of which `rows` have a value."""
    known = {key for row in rows for key, value in row.items() if value is not None}
    return {label: key for label, key in panel.series.items() if key in known}


def curve_chart(panel: Panel, data: str, rows: Sequence[Mapping]) -> dict:
    """Lines through the values of `rows`, which have `group` and the keys of the panel, of several runs
    also `{key} low` and `{key} high`, between which is a band; a line breaks where a value is None.

    Each series has a colour, and each group a dash, or the colours where there is one series.
    """
    series, groups = known_series(panel, rows), group_names(rows)
    counts = Counter(key for row in rows for key, value in row.items() if value is not None)
    few = max((counts[key] for key in series.values()), default=0) < MARKED_POINTS
    band = {"type": "area", "opacity": min(0.18, 0.7 / max(1, len(series) * len(groups)))}
    x = _x(panel, rows)
    y = {
        "type": "quantitative",
        "scale": _y_scale(panel, rows),
        "axis": _axis(panel.unit, grid=True),
    }
    lines = []
    for label, key in series.items():
        colour, dash = _look(label, list(series), groups, panel.dashed)
        present = [{"filter": f"isDefined(datum['{key}'])"}]
        if f"{key} low" in counts:
            low, high = {"field": f"{key} low", **y}, {"field": f"{key} high"}
            lines.append(
                {
                    "transform": present,
                    "mark": band,
                    "encoding": {
                        "x": x,
                        "y": low,
                        "y2": high,
                        "color": colour,
                        "detail": {"field": "group"},
                    },
                }
            )
        lines.append(
            {
                "transform": present,
                "mark": {"type": "line", "strokeWidth": 1.8, "point": few and {"size": 16}},
                "encoding": {"x": x, "y": {"field": key, **y}, "color": colour, "strokeDash": dash},
            }
        )
    rules = [_level(value, y) for value in panel.levels.values()]
    texts = [_level_text(label, value, y) for label, value in panel.levels.items()]
    return _chart(panel.title, data, {"layer": [*rules, *lines, *texts]})


def _level(value: float, y: Mapping) -> dict:
    """A horizontal line."""
    return {
        "data": ONCE,
        "mark": {"type": "rule", "strokeDash": DOTTED, "color": GREY},
        "encoding": {"y": {"datum": value, **y}},
    }


def _level_text(label: str, value: float, y: Mapping) -> dict:
    """What a horizontal line is, at its right end: above the chart where it is its upper end, and below
    the line elsewhere."""
    at_the_top = value == y["scale"].get("domain", [None])[-1]
    place = {"baseline": "bottom", "dy": -2} if at_the_top else {"baseline": "top", "dy": 4}
    return {
        "data": ONCE,
        "mark": {"type": "text", "text": label, "align": "right", "color": "#222222", **place},
        "encoding": {"x": {"value": "width"}, "y": {"datum": value, **y}},
    }


def shade(panel: Panel, rows: Sequence[Mapping], stretches: Sequence[tuple[int, int]]) -> dict:
    """A layer to stand behind the curves of `rows`: a band over each stretch of steps, from the first to
    the last. Step k takes up the place from k - 1 to k."""
    return {
        "data": {"values": [{"from": first - 1, "to": last} for first, last in stretches]},
        "mark": {"type": "rect", "color": WRONG, "opacity": 0.12},
        "encoding": {"x": {**_x(panel, rows), "field": "from"}, "x2": {"field": "to"}},
    }


def group_names(rows: Sequence[Mapping]) -> list[str]:
    """The groups of `rows`, in their order."""
    return list(dict.fromkeys(row["group"] for row in rows))


def _look(
    label: str, labels: Sequence[str], groups: Sequence[str], dashed: Collection[str]
) -> tuple[dict, dict]:
    """Colour and dash of the series `label`, one of `labels`, of each of `groups`."""
    by_label = {"datum": label, "type": "nominal"}
    by_group = {"field": "group", "type": "nominal"}
    if len(groups) == 1:
        dashes = [DASHED if name in dashed else SOLID for name in labels]
        return by_label | _strokes(labels, PALETTE), by_label | _strokes(labels, dashes)
    if len(labels) == 1:  # more groups than colours are told apart by dashes too
        dashes = [DASHES[number // len(PALETTE) % len(DASHES)] for number in range(len(groups))]
        return by_group | _strokes(groups, PALETTE), by_group | _strokes(groups, dashes)
    return by_label | _strokes(labels, PALETTE), by_group | _strokes(groups, DASHES)


def _x(panel: Panel, rows: Sequence[Mapping]) -> dict:
    ticks: dict[str, object] = {"tickCount": 8, "tickMinStep": 1}
    if panel.scale == "log":
        ticks = {"values": sorted({row[panel.x] for row in rows})}
    return {
        "field": panel.x,
        "type": "quantitative",
        "scale": {"type": panel.scale, "nice": panel.scale == "linear", "padding": 0},
        "axis": _axis(panel.x_title, **ticks),
    }


def _y_scale(panel: Panel, rows: Sequence[Mapping]) -> dict:
    if panel.span is None:
        return {"type": panel.scale, "zero": False, "nice": True}
    keys = [f"{key}{end}" for key in panel.series.values() for end in ("", " low", " high")]
    values = [row[key] for row in rows for key in keys if row.get(key) is not None]
    values += [*panel.span, *panel.levels.values()]
    return {"type": panel.scale, "domain": [min(values), max(values)]}


def pointer(panel: Panel, rows: Sequence[Mapping]) -> dict:
    """A layer of a chart of curves: a line at the step that is pointed at, which says its values."""
    series = known_series(panel, rows)
    shown = [{"field": panel.x, "type": "quantitative"}]
    if len(group_names(rows)) > 1:
        shown.append({"field": "group", "type": "nominal", "title": "runs"})
    shown += [
        {"field": key, "type": "quantitative", "title": label, "format": ".4~g"}
        for label, key in series.items()
    ]
    any_of = " || ".join(f"isValid(datum['{key}'])" for key in series.values())
    select = {
        "type": "point",
        "nearest": True,
        "on": "pointerover",
        "clear": "pointerout",
        "fields": [panel.x],
    }
    visible = {"param": "pointed", "empty": False, "value": 0.7}
    return {
        "transform": [{"filter": any_of}],
        "params": [{"name": "pointed", "select": select}],
        "mark": {"type": "rule", "color": GREY},
        "encoding": {
            "x": _x(panel, rows),
            "opacity": {"condition": visible, "value": 0},
            "tooltip": shown,
        },
    }


def bar_chart(title: str, data: str, rows: Sequence[Mapping]) -> dict:
    """Accuracy with its interval by band, a bar for each policy. rows: with policy, band, n, accuracy,
    low and high."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    x = {
        "field": "at",
        "type": "nominal",
        "sort": None,
        "axis": _axis("primes", labelAngle=0, labelExpr="split(datum.label, ', ')"),
    }
    beside = {"field": "policy", "type": "nominal", "sort": policies}
    y = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": _axis("accuracy")}
    bars = {"y": {"field": "accuracy", **y}, "color": beside | _named(policies, PALETTE)}
    ends = {"y": {"field": "low", **y}, "y2": {"field": "high"}}
    body = {
        "transform": [{"calculate": "datum.band + ', n = ' + datum.n", "as": "at"}],
        "encoding": {"x": x, "xOffset": beside},
        "layer": [
            {"mark": "bar", "encoding": bars},
            {"mark": {"type": "rule", "color": "#333333"}, "encoding": ends},
        ],
    }
    return _chart(title, data, body)


def solve_rate_chart(title: str, data: str) -> dict:
    """How the proposals of each phase spread over solve rates, and the learnability of each."""
    x = {
        "field": "solve rate",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": _axis("solve rate of a proposal"),
    }
    y = {"type": "quantitative", "axis": _axis("share, reward"), "scale": {"domain": [0, 1]}}
    phases = {
        "field": "phase",
        "type": "ordinal",
        "sort": None,
        "scale": {"scheme": "viridis"},
        "legend": _legend(["steps 101 to 200"]) | {"symbolType": "circle"},
    }
    shown = [
        {"field": "phase", "type": "nominal"},
        {"field": "solve rate", "type": "quantitative"},
        {"field": "share", "type": "quantitative", "format": ".2%"},
        {"field": "learnability", "type": "quantitative", "format": ".3~g"},
    ]
    learnability = {
        "mark": {"type": "line", "strokeDash": DOTTED, "color": GREY},
        "encoding": {"x": x, "y": {"field": "learnability", "aggregate": "max", **y}},
    }
    shares = {
        "mark": {"type": "line", "point": {"size": 30}},
        "encoding": {"x": x, "y": {"field": "share", **y}, "color": phases, "tooltip": shown},
    }
    return _chart(title, data, {"layer": [learnability, shares]})


def proposal_maps(task: str, data: str, rows: Sequence[Mapping], grid: Grid) -> list[dict]:
    """Of each phase in `rows`, how often each cell (given number, p) was proposed. task: as the titles
    say it."""
    phases = dict.fromkeys(row["phase"] for row in rows)
    return [_proposal_map(f"{task}, {phase}", data, phase, grid) for phase in phases]


def _proposal_map(title: str, data: str, phase: str, grid: Grid) -> dict:
    colour = {
        "field": "share",
        "type": "quantitative",
        "scale": {
            "type": "log",
            "domain": list(SHARES),
            "clamp": True,
            "scheme": {"name": "viridis", "extent": [0.12, 1]},
        },
        "legend": {
            "title": "share of the phase's valid proposals",
            "titleLimit": 260,
            "orient": "bottom",
            "direction": "horizontal",
            "gradientLength": 180,
            "values": [1e-4, 1e-3, 1e-2, 1e-1],
            "labelExpr": "format(datum.value, '~%')",
        },
    }
    shown = [
        {"field": "times", "type": "quantitative", "title": "proposed"},
        {"field": "share", "type": "quantitative", "format": ".2%"},
        {"field": "solve rate", "type": "quantitative"},
    ]
    transform = [{"filter": f"datum.phase === '{phase}'"}]
    return _map(title, data, transform, colour, shown, grid)


def solved_map(title: str, data: str, grid: Grid, single: bool) -> dict:
    """What share of each cell (given number, p) the last evaluation found solved. single: whether a cell
    is one problem of one run."""
    colour = {
        "field": "solved",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "range": [WRONG, RIGHT]},
        "legend": None,
    }
    shown = [{"field": "solved", "type": "quantitative", "format": ".0%"}]
    shown.append({"field": "since step" if single else "problems", "type": "nominal"})
    return _map(title, data, [], colour, shown, grid)


def _map(
    title: str,
    data: str,
    transform: Sequence[Mapping],
    colour: Mapping,
    shown: Sequence[Mapping],
    grid: Grid,
) -> dict:
    """Cells at (given number, p)."""
    where = {
        "title": "given" if grid.width == 1 else "given, from",
        "field": "x",
        "type": "quantitative",
    }
    body = {
        "transform": list(transform),
        "mark": "rect",
        "encoding": {
            "x": {
                "field": "from",
                "type": "quantitative",
                "scale": {"domain": [0.5, grid.last - 0.5], "nice": False},
                "axis": _axis("given number", tickMinStep=1, grid=False),
            },
            "x2": {"field": "to"},
            "y": {
                "field": "p",
                "type": "ordinal",
                "scale": {"domain": grid.labels[::-1]},
                "axis": _axis("p"),
            },
            "color": colour,
            "tooltip": [where, {"field": "p", "type": "nominal"}, *shown],
        },
    }
    return _chart(title, data, body, height=max(90, min(360, 16 * len(grid.labels))))


def stack_chart(title: str, data: str, series: Mapping[str, str], group: str) -> dict:
    """Seconds of a step, one kind on another. series: label -> key, of the rows of `data` that are
    `group`'s."""
    body = {
        "transform": [
            {"filter": {"field": "group", "equal": group}},
            {"filter": "datum.step > 0"},
            *({"calculate": f"datum['{key}'] || 0", "as": label} for label, key in series.items()),
            {"fold": list(series), "as": ["kind", "seconds"]},
        ],
        "mark": {"type": "area", "interpolate": "step", "opacity": 0.85},
        "encoding": {
            "x": {
                "field": "step",
                "type": "quantitative",
                "axis": _axis("self-play step"),
            },
            "y": {
                "field": "seconds",
                "type": "quantitative",
                "stack": "zero",
                "axis": _axis("seconds"),
            },
            "color": {"field": "kind", "type": "nominal", **_named(list(series), PALETTE)},
            "tooltip": [
                {"field": "kind", "type": "nominal"},
                {"field": "seconds", "type": "quantitative", "format": ".3~g"},
            ],
        },
    }
    return _chart(title, data, body)


def _axis(title: str, **more) -> dict:
    return {"title": title, "labelOverlap": "greedy", "labelExpr": SMALL_NUMBERS, **more}


def _named(names: Sequence[str], looks: Sequence) -> dict:
    """Scale and legend of `names`, which look as `looks` do in turn; the legend is below the chart, where
    there are several."""
    return {
        "scale": {"domain": list(names), "range": list(islice(cycle(looks), len(names)))},
        "legend": _legend(names) if len(names) > 1 else None,
    }


def _strokes(names: Sequence[str], looks: Sequence) -> dict:
    """The same of lines."""
    named = _named(names, looks)
    return {**named, "legend": named["legend"] and named["legend"] | STROKES}


def _legend(names: Sequence[str]) -> dict:
    longest = max(map(len, names))
    columns = 1 if longest > 20 else 2 if longest > 12 else 4
    return {"orient": "bottom", "title": None, "columns": columns, "labelLimit": 260}


def _chart(title: str, data: str, body: Mapping, height: int = HEIGHT) -> dict:
    return {"title": {"text": title}, "data": {"name": data}, "height": height, **body}
