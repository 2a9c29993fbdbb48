"""How the cost of a self-play step grows: seconds and memory against four of its sizes.

    python tests/benchmarks/growth.py --output diagrams/cost.png

Each point is a separate process with the default policy and settings, except for what its curve is of.
The length of responses is set by a policy that never stops. Prints a table of the points, another of
the exponents of power laws fitted to them, and draws both; memory is what the steps add to the
process's peak.
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import numpy as np
import torch
from helpers.trainers import trainer_of
from throughput import last_line, peak_gigabytes

from compute.metrics import token_count
from model.args import AZRArgs
from model.flags import ArgumentError, Flags, flag, parse
from model.policy.load import load_policy
from model.policy.warm_start import warm_start
from model.report.charts import Panel, curve_chart
from model.report.pictures import save_picture, sized
from model.run.outputs import PICTURE, output_file
from utils.allocator import keep_freed_memory
from utils.string_formatting import PromptRenderer
from utils.tables import markdown_table

WARM_UP, STEPS = 1, 5
LENGTH = "response length"
AS_TOKENS = "as tokens grow"
CURVES = {
    "completions": [dict(batch_size=size) for size in (16, 32, 64, 128, 256, 512)],
    "n attempts": [dict(batch_size=64, n_attempts=n) for n in (2, 4, 8, 16, 32)],
    LENGTH: [
        dict(batch_size=16, proposer="uniform", max_answer_tokens=length)
        for length in (4, 8, 16, 32, 64)
    ],
    "max prime": [dict(max_prime=prime) for prime in (13, 31, 61, 127, 307, 617)],
}
VALUE = {
    "n attempts": "n_attempts", LENGTH: "max_answer_tokens", "max prime": "max_prime",
}  # fmt: skip
MEASURED = {"tokens": "tokens a step", "seconds": "seconds a step", "memory": "memory, MB"}


@dataclass(frozen=True)
class GrowthArgs(Flags):
    """The command line; its last two flags are for the processes that this one starts."""

    output: str = flag("cost.png", "the picture")
    prepare: str | None = flag(None, "write the weights of this point, which is JSON")
    point: str | None = flag(None, "measure this point, which is JSON, and print JSON")


def prepare(changes: dict, weights: str) -> None:
    """Warm-start the policy, in a process of its own, since that may take more memory than steps do."""
    args = AZRArgs(**changes)
    policy = load_policy(args)
    warm_start(policy, PromptRenderer.for_policy(policy, args), args)
    torch.save(policy.model.state_dict(), weights)


def measure(curve: str, changes: dict, weights: str) -> dict[str, float]:
    """The medians of a point."""
    keep_freed_memory()  # as model/train.py does on a CPU
    args = AZRArgs(**changes)
    policy = load_policy(args)
    if curve == LENGTH:
        policy = replace(policy, stop_ids=(-1,))
    else:
        policy.model.load_state_dict(torch.load(weights))
    trainer, before, points = trainer_of(policy, args), peak_gigabytes(), []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        done = trainer.step()
        seconds, sampled = time.perf_counter() - started, done.played.completions
        points.append({
            "completions": len(sampled), "tokens": token_count(sampled), "seconds": seconds,
        })  # fmt: skip
    middle = {key: median(point[key] for point in points[WARM_UP:]) for key in points[0]}
    return {**middle, "memory": 1000 * (peak_gigabytes() - before)}


def points_of(curve: str) -> list[dict[str, float]]:
    """Of each point of a curve its place on it, and what was measured there."""
    points = []
    for changes in CURVES[curve]:
        with tempfile.TemporaryDirectory() as folder:
            weights = f"{folder}/weights.pt"
            if curve != LENGTH:
                last_line(__file__, "--prepare", json.dumps([changes, weights]))
            point = json.loads(
                last_line(__file__, "--point", json.dumps([curve, changes, weights]))
            )
        points.append({"value": changes.get(VALUE.get(curve), point["completions"]), **point})
    return points


def exponent(points: list[dict[str, float]], key: str) -> float:
    """k of the power law value^k that fits best, by least squares of the logarithms."""
    logs = np.log([[point["value"], max(point[key], 1e-3)] for point in points])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def draw(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Seconds and memory of a step against each size, and what they would be as tokens grow."""
    pictures, data = {"seconds": [], "memory": []}, {}
    for curve, points in curves.items():
        data[curve], last = [{"group": curve, **point} for point in points], points[-1]
        for key, charts in pictures.items():
            for point in data[curve]:
                point[f"{key} by tokens"] = last[key] * point["tokens"] / last["tokens"]
            panel = Panel(
                f"{curve}: exponent {exponent(points, key):.2f}",
                {"measured": key, AS_TOKENS: f"{key} by tokens"},
                MEASURED[key],
                dashed={AS_TOKENS},
                x="value",
                x_title=curve,
                scale="log",
            )
            charts.append(sized(curve_chart(panel, curve, data[curve]), 230, 190))
    shared = {"resolve": {"scale": {"y": "shared"}}}
    rows = [{"hconcat": charts, **shared} for charts in pictures.values()]
    save_picture({"vconcat": rows}, data, path)


def main(argv: list[str]) -> int:
    try:
        given = parse(GrowthArgs, argv, about=__doc__)
        if given.prepare is not None:
            prepare(*json.loads(given.prepare))
            return 0
        if given.point is not None:
            print("\n" + json.dumps(measure(*json.loads(given.point))))
            return 0
        output = output_file(given.output, PICTURE)
    except ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    except json.JSONDecodeError as error:
        print(
            f"--point, --prepare: must be what this program gives itself ({error})", file=sys.stderr
        )
        return 2
    curves = {curve: points_of(curve) for curve in CURVES}
    table = [
        {
            "": curve if not number else "",
            "at": f"{point['value']:,.0f}",
            "completions": f"{point['completions']:,.0f}",
            "tokens": f"{point['tokens']:,.0f}",
            "seconds": f"{point['seconds']:.3f}",
            "memory, MB": f"{point['memory']:.0f}",
        }
        for curve, points in curves.items()
        for number, point in enumerate(points)
    ]
    print(markdown_table(table))
    fitted = [
        {
            "exponent of": curve,
            **{MEASURED[key]: f"{exponent(points, key):.2f}" for key in MEASURED},
        }
        for curve, points in curves.items()
    ]
    for row, points in zip(fitted, curves.values(), strict=True):
        row["seconds, the last two points"] = f"{exponent(points[-2:], 'seconds'):.2f}"
    print(markdown_table(fitted), end="")
    draw(curves, output)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
