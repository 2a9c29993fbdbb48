"""Where the time of a run goes: what `python model/train.py` does, with a clock around its parts.

    python tests/benchmarks/profile_run.py
    python tests/benchmarks/profile_run.py --model smollm2 --total-steps 5

Takes the flags of `model/train.py`; the run directory is thrown away. Prints, of each part, its
seconds, its share of the time after start-up and warm start, and the share of it that is outside the
model: that is neither a forward or backward pass, the cache, sampling, nor the optimizer.
"""

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from accelerate import Accelerator
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.utils import logging as transformers_logging

import model.engine.decoding
import model.engine.plain
import model.engine.sampling
import model.engine.shared
import model.trainer
from model import train
from model.args import ArgumentError, parse_args
from model.engine.decoding import Decoding
from model.eval.evaluator import Evaluator
from model.optimizer import StepGuard
from model.policy.language import language
from model.recording.recorder import Recorder
from model.trainer import AZRTrainer
from utils.tables import markdown_table
from utils.weights import Replicated

START = "start"
REST = "the step's own bookkeeping"
EVALUATION = "evaluation"
PARTS = [  # where a function is looked up, its name, the part of the run that it is
    (AZRTrainer, "_rollout", "generation"),
    (model.trainer, "judge_rollouts", "judging"),
    (model.trainer, "compute_advantages", "advantages"),
    (AZRTrainer, "learning_phase", "update"),
    (Evaluator, "verdicts", EVALUATION),
    (Evaluator, "uniform_reward", EVALUATION),
    (train, "accuracy_metrics", EVALUATION),
    (Recorder, "record", "logging"),
    (Recorder, "checkpoint", "checkpoints"),
]
INSIDE = [
    (model.engine.shared, "prefill"),
    (model.engine.sampling, "sample_tokens"),
    (model.engine.shared, "_likelihood"),
    (Decoding, "extend"),
    (model.engine.plain, "forward"),
    (model.engine.plain, "sample_tokens"),
    (model.engine.plain, "likelihood"),
    (StepGuard, "step"),
    (Accelerator, "backward"),
    (Replicated, "clip_gradient"),
    (LlamaModel, "forward"),
    (Qwen2Model, "forward"),
]
# Of what is inside.
OUTSIDE = [(model.engine.decoding, "fill_rows"), (model.engine.decoding, "pack")]


class Clock:
    """Charges the time that passes to the innermost part that is running."""

    def __init__(self):
        self.spent: dict[tuple[str, bool], float] = defaultdict(float)
        self.running = [(START, False)]
        self.since = time.perf_counter()

    def charge(self) -> None:
        now = time.perf_counter()
        self.spent[self.running[-1]] += now - self.since
        self.since = now

    def around(self, owner, name: str, part: str | None = None, inside: bool = False) -> None:
        """Charge calls of `owner.name` to a part, or to the one that is running; what an evaluation
        does is evaluation."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            self.charge()
            current = self.running[-1][0]
            chosen = current if part is None or current == EVALUATION else part
            self.running.append((chosen, inside))
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.running.pop()

        setattr(owner, name, timed)


def main(argv: list[str]) -> int:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        try:
            args = parse_args(
                [*argv, "--run-dir", f"{folder}/run", "--quiet"], language_of=language
            )
        except ArgumentError as error:
            print(error, file=sys.stderr)
            return 2
        clock = Clock()
        clock.around(train, "_loop", REST)
        for place in PARTS:
            clock.around(*place)
        for owner, name in INSIDE:
            clock.around(owner, name, inside=True)
        for owner, name in OUTSIDE:
            clock.around(owner, name)
        try:
            train.train(args)
        except train.REFUSALS as error:
            print(error, file=sys.stderr)
            return 2
    clock.charge()
    spent = {key: seconds for key, seconds in clock.spent.items() if key[0] != START}
    total = sum(spent.values())
    rows = [_row(part, spent, total) for part in sorted({part for part, _ in spent}, key=_order)]
    print(markdown_table([*rows, _row("together", spent, total)]), end="")
    return 0


def _order(part: str) -> int:
    return [*(own for *_, own in PARTS), REST].index(part)


def _row(part: str, spent: dict[tuple[str, bool], float], total: float) -> dict[str, str]:
    own = [key for key in spent if part in (key[0], "together")]
    seconds = sum(spent[key] for key in own)
    outside = sum(spent[key] for key in own if not key[1])
    return {
        "": part,
        "seconds": f"{seconds:.1f}",
        "share": f"{seconds / total:.1%}",
        "outside the model": f"{outside / total:.1%}",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
