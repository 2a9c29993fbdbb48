"""Updates whose loss or gradient is not finite. Oracle: the weights and the moments before them."""

import copy
import json
import math

import pytest
import torch
from helpers.run_contents import SMALL
from helpers.trainers import make_trainer, weights

from model import train
from model.optimizer import MOST_SKIPPED, NonFiniteError
from model.trainer import AZRTrainer

NAN, INFINITY = float("nan"), float("inf")


class Spoiled(AZRTrainer):
    """The parts of an update in `spoiled`, counted from 1, have a factor in their objective."""

    spoiled: dict[int, float] = {}
    parts = 0

    def _objective(self, *args, **mean_over):
        objective, extra = super()._objective(*args, **mean_over)
        self.parts += 1
        return objective * self.spoiled.get(self.parts, 1.0), extra


def moments(trainer: AZRTrainer) -> list[torch.Tensor]:
    state = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    return [value for own in state.values() for value in own.values()]


@pytest.mark.parametrize("factor", [NAN, INFINITY, -INFINITY])
def test_an_update_that_is_not_finite_is_skipped_and_counted(warm_tiny, factor):
    trainer = make_trainer(warm_tiny[0], Spoiled, minibatches=1, lr_warmup=0)
    trainer.spoiled = {2: factor}
    assert trainer.step()["skipped_updates"] == 0
    before, memory = weights(trainer), moments(trainer)
    metrics = trainer.step()
    assert metrics["skipped_updates"] == 1 and not math.isfinite(metrics["loss"])
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moments(trainer), memory, strict=True))
    after = trainer.step()
    assert after["skipped_updates"] == 0 and math.isfinite(after["grad_norm"])
    moved = [not torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True)]
    assert all(moved)
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is(warm_tiny):
    trainer = make_trainer(warm_tiny[0], minibatches=1)
    spoil = trainer.policy.model.lm_head.weight.register_hook(lambda gradient: gradient * NAN)
    before = weights(trainer)
    metrics = trainer.step()
    assert math.isfinite(metrics["loss"]) and math.isnan(metrics["grad_norm"])
    assert metrics["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))
    spoil.remove()
    assert trainer.step()["skipped_updates"] == 0


def test_it_ends_after_a_few_in_a_row_and_not_before(warm_tiny):
    trainer = make_trainer(warm_tiny[0], Spoiled, minibatches=1)
    few = range(1, MOST_SKIPPED)
    trainer.spoiled = dict.fromkeys([*few, *(MOST_SKIPPED + one for one in few)], NAN)
    for _ in range(2 * MOST_SKIPPED - 1):
        trainer.step()  # one good update between two rows of bad ones
    trainer.spoiled = dict.fromkeys(range(2 * MOST_SKIPPED, 100), NAN)
    with pytest.raises(NonFiniteError, match=f"not finite in {MOST_SKIPPED} updates in a row"):
        trainer.step()


def test_the_run_ends_with_the_last_good_checkpoint_named(tmp_path, monkeypatch, capsys):
    """NaN from the third step on: rows of the steps before the end are there, with null for NaN."""
    monkeypatch.setattr(Spoiled, "spoiled", dict.fromkeys(range(3, 1000), NAN))
    monkeypatch.setattr("model.train.AZRTrainer", Spoiled)
    run = tmp_path / "run"
    settings = ["--minibatches", "1", "--checkpoint-every", "2", "--total-steps", "20"]
    argv = [*SMALL, *settings, "--run-dir", str(run), "--quiet"]
    assert train.main(argv) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "not finite in 5 updates in a row" in said
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("skipped_updates") for row in rows] == [None, 0, 0, 1, 1, 1, 1]
    assert [row.get("loss") is None for row in rows] == [True, False, False, True, True, True, True]
    # Weights of skipped updates are those of step 2, so the checkpoint of step 6 is a good one too.
    steps = sorted(path.name for path in (run / "checkpoints").glob("step_*"))
    assert said.endswith(f"the last good checkpoint is {run / 'checkpoints' / steps[-1]}")
