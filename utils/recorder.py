"""Everything a run writes and says: run directory, terminal, tracker, plots. One process does."""

from collections.abc import Mapping

from custom_types import Policy, Round, Scored
from model.args import AZRArgs
from utils.console import Console
from utils.plots import save_plots
from utils.run_directory import RunDirectory
from utils.trackers import WandbTracker


class Silence:
    """What the other processes of a run have in a `Recorder`'s place."""

    def discard(self) -> None:
        """The run could not start."""

    def start(self, policy: Policy, device: str) -> None:
        """The policy is there."""

    def warm_started(self, loss: float, seconds: float) -> None:
        """The warm start is over."""

    def record(
        self, metrics: Mapping, trained: list[tuple[Scored, float]], played: Round | None
    ) -> None:
        """A step is over: its metrics, what was trained on with its advantages, its round if any."""

    def finish(self, policy: Policy, step: int, weights: dict | None) -> None:
        """The run is over. weights: what to save, where it is not the model's own state."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *error) -> None:
        """The last step is over."""


class Recorder(Silence):
    """Writes it all. Raises RunDirectoryError where the run directory is not new or empty."""

    def __init__(self, args: AZRArgs):
        self.args = args
        self.run = RunDirectory(args)
        self.console = Console(args, self.run.path)

    def discard(self) -> None:
        self.run.discard()

    def start(self, policy: Policy, device: str) -> None:
        self.tokenizer = policy.tokenizer
        self.run.write_config(self.args, device)
        self.console.start(policy, device)
        self.tracker = WandbTracker(self.args, self.run.path)

    def warm_started(self, loss: float, seconds: float) -> None:
        self.console.warm_started(loss, seconds)

    def record(
        self, metrics: Mapping, trained: list[tuple[Scored, float]], played: Round | None
    ) -> None:
        step = metrics["step"]
        self.run.log_metrics(metrics)
        self.run.log_rollouts(step, trained, self.tokenizer, self.args.logged_rollouts)
        self.run.log_problems(step, played)
        self.tracker.log(metrics)
        self.console.step(metrics)

    def finish(self, policy: Policy, step: int, weights: dict | None) -> None:
        self.tracker.close()
        checkpoint = self.run.save_checkpoint(policy, step, weights)
        self.run.close()
        save_plots([self.run.path], self.run.path / "plots")
        self.console.end(checkpoint)

    def __enter__(self) -> "Recorder":
        self.console.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.console.__exit__(*error)
