"""What `--plan` says of a run, as figures to compare with."""

from collections.abc import Sequence
from typing import NamedTuple

from constants import GIB
from model.args import AZRArgs
from model.plan.memory import Stage, peak_sizes
from model.plan.plan import count_stages, memory_sizes, precision_of, read_model, seconds


class Planned(NamedTuple):
    """peaks: GiB at the fullest moment of rollout and of update. seconds: of a step's rollout, the least and
    the most, and of its updates. stages: what is sampled together."""

    peaks: dict[str, float]
    seconds: dict[str, float]
    stages: Sequence[Stage]


def planned(args: AZRArgs) -> Planned:
    """Of a run with these arguments."""
    model, language = read_model(args)
    precision, stages = precision_of(args, model, language), count_stages(args, language)
    sizes = memory_sizes(args, model, precision, stages)
    (least, most), update = seconds(args, model, precision, stages[:2])
    return Planned(
        {phase: size / GIB for phase, size in peak_sizes(sizes).items()},
        {"rollout, least": least, "rollout, most": most, "update": update},
        stages,
    )
