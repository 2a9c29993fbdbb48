"""The report's charts, as Vega-Lite specifications: https://vega.github.io/vega-lite/docs/.

Each names its data, which the page holds once. Colours of text and lines are the page's.
"""

from collections.abc import Mapping, Sequence

from model.report.curriculum import SHARES
from model.report.data import Grid
from model.report.pictures import MARKED_POINTS

PALETTE = ("#3b8ed0", "#d55e00", "#00a078", "#b678b0", "#9a8a00", "#7f7f7f")  # light and dark
RIGHT, WRONG = "#00a078", "#d55e00"
HEIGHT = 190
SMALL_NUMBERS = (
    "datum.value != 0 && abs(datum.value) < 0.001 ? format(datum.value, '.1e') : datum.label"
)


def _axis(title: str | None, **more) -> dict:
    return {"title": title, "labelOverlap": "greedy", "labelExpr": SMALL_NUMBERS, **more}


def _legend(labels: Sequence[str]) -> dict | None:
    """Below the chart, where there is something to tell apart."""
    longest = max(map(len, labels), default=0)
    columns = 1 if longest > 28 else 2 if longest > 12 else 4
    own = dict(orient="bottom", title=None, columns=columns, labelLimit=260, symbolOpacity=1)
    return own if len(labels) > 1 else None


def curve_chart(
    title: str,
    data: str,
    series: Mapping[str, str],
    *,
    known: Mapping[str, int],
    several_runs: bool,
    groups: Sequence[str],
    domain: tuple[float, float] | None = None,
) -> dict:
    """Lines against steps. series: label -> key, of the rows of `data`; a colour each, a dash for each
    group, or its colour where there is one series, and a band from lowest to highest run. known: how
    many rows have each key."""
    scale = {"domain": list(domain)} if domain else {"zero": False, "nice": True}
    x = {"field": "step", "type": "quantitative", "axis": _axis("self-play step", tickMinStep=1)}
    paint = {
        label: (key, PALETTE[index % len(PALETTE)])
        for index, (label, key) in enumerate(series.items())
        if key in known
    }
    series = {label: key for label, (key, _) in paint.items()}
    several_groups, one_series = len(groups) > 1, len(series) == 1
    by_group = {"field": "group", "type": "nominal", "legend": _legend(groups)}
    group_colours = {"scale": {"domain": list(groups), "range": list(PALETTE)}}
    by_series = {
        "type": "nominal",
        "scale": {"domain": list(paint), "range": [colour for _, colour in paint.values()]},
        "legend": _legend(list(series)),
    }
    dash = {"strokeDash": by_group} if several_groups and not one_series else {}
    points = {"size": 16} if max(known[key] for key in series.values()) < MARKED_POINTS else False
    layers = []
    for label, key in series.items():
        if not known[key]:  # an axis over nothing has no end
            continue
        rows = [{"filter": f"isValid(datum['{key}'])"}]
        colour = {"datum": label, **by_series}
        if several_groups and one_series:
            colour = by_group | group_colours
        y = {"type": "quantitative", "scale": scale, "axis": _axis(None)}
        if several_runs and known[f"{key} low"]:
            layers.append(
                {
                    "transform": rows,
                    "mark": {"type": "area", "opacity": 0.18},
                    "encoding": {
                        "x": x,
                        "y": {"field": f"{key} low", **y},
                        "y2": {"field": f"{key} high"},
                        "color": colour,
                        "detail": {"field": "group"},
                    },
                }
            )
        layers.append(
            {
                "transform": rows,
                "mark": {"type": "line", "strokeWidth": 1.8, "point": points},
                "encoding": {"x": x, "y": {"field": key, **y}, "color": colour, **dash},
            }
        )
    layers.append(_hover(x, series, several_groups))
    return _chart(title, data, {"layer": layers})


def _hover(x: Mapping, series: Mapping[str, str], several_groups: bool) -> dict:
    """A line at the step that is pointed at, which says its values."""
    shown = [{"field": "step", "type": "quantitative", "title": "step"}]
    shown += [{"field": "group", "type": "nominal", "title": "runs"}] if several_groups else []
    shown += [
        {"field": key, "type": "quantitative", "title": label, "format": ".4~g"}
        for label, key in series.items()
    ]
    any_of = " || ".join(f"isValid(datum['{key}'])" for key in series.values())
    return {
        "transform": [{"filter": any_of}],
        "params": [
            {
                "name": "pointed",
                "select": {
                    "type": "point",
                    "nearest": True,
                    "on": "pointerover",
                    "clear": "pointerout",
                    "fields": ["step"],
                },
            }
        ],
        "mark": {"type": "rule", "color": "#888888"},
        "encoding": {
            "x": x,
            "opacity": {
                "condition": {"param": "pointed", "empty": False, "value": 0.7},
                "value": 0,
            },
            "tooltip": shown,
        },
    }


def solve_rate_chart(title: str, data: str) -> dict:
    """How the proposals of each phase spread over solve rates, and the learnability of each."""
    x = {
        "field": "solve rate",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "axis": _axis("solve rate of a proposal"),
    }
    y = {"type": "quantitative", "axis": _axis(None), "scale": {"domain": [0, 1]}}
    phases = {
        "field": "phase",
        "type": "ordinal",
        "sort": None,
        "scale": {"scheme": "viridis"},
        "legend": {**_legend(["steps 101 to 200", "and others"]), "symbolType": "circle"},
    }
    shown = [
        {"field": "phase", "type": "nominal"},
        {"field": "solve rate", "type": "quantitative"},
        {"field": "share", "type": "quantitative", "format": ".2%"},
        {"field": "learnability", "type": "quantitative", "format": ".3~g"},
    ]
    learnability = {
        "mark": {"type": "line", "strokeDash": [2, 3], "color": "#888888"},
        "encoding": {"x": x, "y": {"field": "learnability", "aggregate": "max", **y}},
    }
    shares = {
        "mark": {"type": "line", "point": {"size": 30}},
        "encoding": {"x": x, "y": {"field": "share", **y}, "color": phases, "tooltip": shown},
    }
    return _chart(title, data, {"layer": [learnability, shares]})


def proposal_map(title: str, data: str, phase: str, grid: Grid) -> dict:
    """How often each cell (given number, p) was proposed in a phase."""
    colour = {
        "field": "share",
        "type": "quantitative",
        "scale": {
            "type": "log",
            "domain": list(SHARES),
            "clamp": True,
            "scheme": {"name": "viridis", "extent": [0.12, 1]},
        },
        "legend": None,
    }
    shown = [
        {"field": "times", "type": "quantitative", "title": "proposed"},
        {"field": "share", "type": "quantitative", "format": ".2%"},
        {"field": "solve rate", "type": "quantitative"},
    ]
    transform = [{"filter": f"datum.phase === '{phase}'"}]
    return _map(title, data, transform, colour, shown, grid)


def solved_map(title: str, data: str, grid: Grid, single: bool) -> dict:
    """What share of each cell (given number, p) the last evaluation found solved. single: whether a cell is one
    problem of one run."""
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
    """Seconds of a step, one part on another. series: label -> key, of the rows of `data` that are
    `group`'s."""
    body = {
        "transform": [
            {"filter": {"field": "group", "equal": group}},
            {"filter": "datum.step > 0"},
            *({"calculate": f"datum['{key}'] || 0", "as": label} for label, key in series.items()),
            {"fold": list(series), "as": ["part", "seconds"]},
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
                "axis": _axis(None),
            },
            "color": {
                "field": "part",
                "type": "nominal",
                "scale": {"domain": list(series), "range": list(PALETTE[: len(series)])},
                "legend": _legend(list(series)),
            },
            "tooltip": [
                {"field": "part", "type": "nominal"},
                {"field": "seconds", "type": "quantitative", "format": ".3~g"},
            ],
        },
    }
    return _chart(title, data, body)


def _chart(title: str, data: str, body: Mapping, height: int = HEIGHT) -> dict:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": {
            "text": title,
            "anchor": "start",
            "fontWeight": 600,
            "fontSize": 13,
            "limit": 330,
        },
        "data": {"name": data},
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": None,
        "config": {
            "view": {"stroke": None},
            "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
            "legend": {"labelFontSize": 11},
        },
        **body,
    }
