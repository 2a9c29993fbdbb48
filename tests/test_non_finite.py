"""Updates whose loss or gradient is not finite. Oracle: the weights and the moments before them."""

import copy
import json
import math
from functools import partial

import pytest
import torch
from helpers.run_contents import SMALL
from helpers.trainers import make_trainer, weights

from compute.objective import compute_azr_objective
from model import train
from model.learner import Learner
from model.optimizer import MOST_SKIPPED, NonFiniteError
from model.trainer import AZRTrainer

NAN, INFINITY = float("nan"), float("inf")


class Spoiled:
    """The paper's objective, times a factor at those of its calls, counted from 1, that have one. Where a
    minibatch is one batch, as here, an update is a call."""

    def __init__(self, factors: dict[int, float]):
        self.factors, self.calls = factors, 0

    def __call__(self, *logprobs_and_more, **settings):
        objective, measured = compute_azr_objective(*logprobs_and_more, **settings)
        self.calls += 1
        return objective * self.factors.get(self.calls, 1.0), measured


def spoiled(factors: dict[int, float]):
    """What makes the learner of a trainer."""
    return partial(Learner, objective=Spoiled(factors))


def moments(trainer: AZRTrainer) -> list[torch.Tensor]:
    state = copy.deepcopy(trainer.learner.optimizer.state_dict()["state"])
    return [value for of_weight in state.values() for value in of_weight.values()]


@pytest.mark.parametrize("factor", [NAN, INFINITY, -INFINITY])
def test_an_update_that_is_not_finite_is_skipped_and_counted(warm_tiny, factor):
    trainer = make_trainer(warm_tiny[0], learner=spoiled({2: factor}), minibatches=1, lr_warmup=0)
    assert trainer.step().metrics["skipped_updates"] == 0
    before, memory = weights(trainer), moments(trainer)
    metrics = trainer.step().metrics
    assert metrics["skipped_updates"] == 1 and not math.isfinite(metrics["loss"])
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(moments(trainer), memory, strict=True))
    after = trainer.step().metrics
    assert after["skipped_updates"] == 0 and math.isfinite(after["grad_norm"])
    moved = [not torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True)]
    assert all(moved)
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is(warm_tiny):
    trainer = make_trainer(warm_tiny[0], minibatches=1)
    spoil = trainer.policy.model.lm_head.weight.register_hook(lambda gradient: gradient * NAN)
    before = weights(trainer)
    metrics = trainer.step().metrics
    assert math.isfinite(metrics["loss"]) and math.isnan(metrics["grad_norm"])
    assert metrics["skipped_updates"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(trainer), before, strict=True))
    spoil.remove()
    assert trainer.step().metrics["skipped_updates"] == 0


def test_it_ends_after_a_few_in_a_row_and_not_before(warm_tiny):
    """Of all updates the fifth alone is good: the run of bad ones that ends it is the second."""
    bad = [update for update in range(1, 100) if update != MOST_SKIPPED]
    trainer = make_trainer(warm_tiny[0], learner=spoiled(dict.fromkeys(bad, NAN)), minibatches=1)
    for _ in range(2 * MOST_SKIPPED - 1):
        trainer.step()
    with pytest.raises(NonFiniteError, match=f"not finite in {MOST_SKIPPED} updates in a row"):
        trainer.step()


def test_the_run_ends_with_the_last_good_checkpoint_named(tmp_path, monkeypatch, capsys):
    """NaN from the third step on: rows of the steps before the end are there, with null for NaN."""

    def spoiled_trainer(policy, renderer, args, accelerator, **more) -> AZRTrainer:
        learner = spoiled(dict.fromkeys(range(3, 1000), NAN))(policy, args, accelerator)
        return AZRTrainer(policy, renderer, args, accelerator, learner=learner, **more)

    monkeypatch.setattr("model.train.AZRTrainer", spoiled_trainer)
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
