"""What `--plan` says of a run, as figures to compare with."""

from gpu.bench import GIB
from model.args import AZRArgs
from model.plan.memory import MOMENTS, fullest_moment, sum_of
from model.plan.plan import count_stages, memory_sizes, precision_of, read_model, seconds


def planned_peaks(args: AZRArgs) -> dict[str, float]:
    """GiB at the fullest moment of rollout and of update."""
    model, language = read_model(args)
    precision, stages = precision_of(args, model, language), count_stages(args, language)
    sizes = memory_sizes(args, model, precision, stages)
    return {phase: sum_of(sizes, fullest_moment(sizes, phase)) / GIB for phase in MOMENTS}


def planned_seconds(args: AZRArgs) -> dict[str, float]:
    """Seconds of a step's rollout, the least and the most, and of its updates."""
    model, language = read_model(args)
    precision, stages = precision_of(args, model, language), count_stages(args, language)
    (least, most), update = seconds(args, model, precision, stages[:2])
    return {"rollout, least": least, "rollout, most": most, "update": update}
