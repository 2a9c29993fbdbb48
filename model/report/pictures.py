"""Charts as PNG files: chart specifications and their data go in, pictures on white come out.

A picture says that this program made it, so that the next one may replace it, and nothing else is
replaced. Example: `save_picture(sized(chart), {"curves": rows}, Path("loss.png"))`.
"""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import vl_convert

from custom_types import CELLS, TASKS
from model.report.charts import (
    CONFIG,
    SCHEMA,
    bar_chart,
    curve_chart,
    known_series,
    proposal_maps,
)
from model.report.curriculum import Grid, proposals
from model.report.curves import curves
from model.report.data import common_args
from model.report.panels import curriculum_panels, reward_panels
from model.run.finished import FinishedRun, read_runs
from model.run.outputs import PICTURE
from prime_inversion import primes_between

WIDTH, HEIGHT = 440, 270  # of the plot of a picture with one
MAP_WIDTH = 175
SCALE = 2  # pixels a unit
NAMES = [*(f"{role}_{task}.png" for role, task in CELLS), "accuracy.png", "curriculum.png"]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def save_plots(run_dirs: Sequence[str | Path], folder: str | Path) -> list[Path]:
    """Draw the pictures of a run, or of several as mean and range, and the curriculum of the first;
    the files written. A picture without any value is left out. Raises RunDirectoryError."""
    runs = read_runs(run_dirs)
    args = common_args(runs)
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    for name, panel in reward_panels(args).items():
        rows = curves("runs", [run.metrics for run in runs], panel.series.values())
        if known_series(panel, rows):
            written.append(Path(folder) / f"{name}.png")
            save_picture(sized(curve_chart(panel, "curves", rows)), {"curves": rows}, written[-1])
    if runs[0].problems:
        written.append(Path(folder) / "curriculum.png")
        save_curriculum(runs[0], written[-1])
    return written


def save_curriculum(run: FinishedRun, path: Path) -> None:
    """What a run's proposer proposed, and when: over steps, and below that in each phase."""
    panels = curriculum_panels(run.args)
    keys = [key for panel in panels for key in panel.series.values()]
    data = {"curves": curves("run", [run.metrics], keys)}
    drawn = [panel for panel in panels if known_series(panel, data["curves"])]
    lines = [sized(curve_chart(panel, "curves", data["curves"]), height=190) for panel in drawn]
    grid, maps = Grid(primes_between(run.args["min_prime"], run.args["max_prime"])), []
    for task in map(str, TASKS):
        data[task] = proposals([run], task, grid)
        charts = proposal_maps(task, task, data[task], grid)
        maps.append({"hconcat": [{**chart, "width": MAP_WIDTH} for chart in charts]})
    save_picture(separate([{"hconcat": lines}, {"vconcat": maps}]), data, path)


def save_bars(rows: Sequence[Mapping], path: Path) -> None:
    """Accuracy by band, a chart for each task, of rows as `bar_chart` has them."""
    data = {
        task: [row for row in rows if row["task"] == task and row["n"]] for task in map(str, TASKS)
    }
    charts = [sized(bar_chart(task, task, data[task]), 640, 190) for task in data if data[task]]
    save_picture({"vconcat": charts}, data, path)


def sized(chart: Mapping, width: int = WIDTH, height: int = HEIGHT) -> dict:
    """A chart of a width and a height."""
    return {**chart, "width": width, "height": height}


def separate(charts: Sequence[Mapping]) -> dict:
    """Charts below each other, each with a legend of its own."""
    resolve = {"scale": {"color": "independent", "strokeDash": "independent"}}
    return {"vconcat": list(charts), "resolve": resolve}


def save_picture(chart: Mapping, data: Mapping[str, Sequence[Mapping]], path: Path) -> None:
    """Write a chart, or several in one, as a PNG file. data: the rows, by the names that it has for
    them."""
    drawn = {
        "$schema": SCHEMA,
        "config": CONFIG,
        "background": "white",
        "padding": 10,
        "datasets": data,
        **chart,
    }
    path.write_bytes(signed(vl_convert.vegalite_to_png(drawn, scale=SCALE)))


def signed(png: bytes) -> bytes:
    """A PNG file that says whose it is, and that is a third as large, as `vl_convert` packs loosely."""
    chunks, at = [], len(SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    pixels = b"".join(content for kind, content in chunks if kind == b"IDAT")
    head = [(kind, content) for kind, content in chunks if kind not in (b"IDAT", b"IEND")]
    mine = (b"tEXt", b"Software\0" + PICTURE.encode("latin-1"))
    packed = (b"IDAT", zlib.compress(zlib.decompress(pixels)))
    return SIGNATURE + b"".join(_chunk(*one) for one in (*head, mine, packed, (b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Length, kind, content and checksum, as the PNG specification has them (5.3)."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
