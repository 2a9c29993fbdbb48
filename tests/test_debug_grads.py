"""The table of gradients. Oracles: what its parts must add up to, a step without it, another trainer
whose batch holds one cell alone.
"""

import re

import pytest
import torch
from helpers.trainers import flat_gradient, make_trainer, weights

from custom_types import CELLS, Round


def tables(text: str) -> list[dict]:
    """Each table: its loss and norm, `layers` and `cells` by name."""
    found = []
    for line in text.splitlines():
        if line.startswith("gradients of update"):
            loss, norm = map(float, re.findall(r"-?\d\.\d+e[+-]\d+", line))
            found.append({"loss": loss, "norm": norm, "layers": {}, "cells": {}})
        elif found and line.split()[0] not in ("layer", "cell"):
            name, *numbers = line.split()
            values = [float(n.rstrip("%")) / (100 if n.endswith("%") else 1) for n in numbers]
            found[-1]["cells" if len(values) == 3 else "layers"][name] = values
    return found


def test_the_table_adds_up_and_changes_nothing(warm_tiny, capsys):
    plain, watched = (make_trainer(warm_tiny[0], debug_grads=n) for n in (0, 2))
    assert plain.step().metrics["loss"] == watched.step().metrics["loss"]
    assert all(map(torch.equal, weights(plain), weights(watched)))
    shown = tables(capsys.readouterr().out)
    assert len(shown) == 2  # of the four updates
    for table in shown:
        assert list(table["cells"]) == [f"{role}_{task}" for role, task in CELLS]
        assert sum(share for _, share, _ in table["cells"].values()) == pytest.approx(1, abs=0.005)
        losses = [loss for *_, loss in table["cells"].values()]
        assert sum(losses) == pytest.approx(table["loss"], abs=0.01 * sum(map(abs, losses)))
        square = sum(norm**2 for norm, _ in table["layers"].values())
        assert square**0.5 == pytest.approx(table["norm"], rel=0.01)


def test_a_cell_alone_has_the_whole_update(warm_tiny, capsys):
    """One update on the answers of one cell: their share is 1, their norm that of the update."""
    trainer = make_trainer(warm_tiny[0], minibatches=1, entropy_coef=0.0, debug_grads=1)
    played = trainer.rollout_phase()
    cell = CELLS[4]
    answers = [item for item in played.answers if (item.rollout.role, item.rollout.task) == cell]
    trainer.steps = 1
    trainer.learner.guard.step = lambda *_: True  # the gradient stays where it is
    trainer.learning_phase(Round((), (), {}, tuple(answers), 0, ()))
    (table,) = tables(capsys.readouterr().out)
    name = "_".join(cell)
    for other, (norm, share, loss) in table["cells"].items():
        assert (norm > 0, share, loss == 0) == (
            (True, 1, False) if other == name else (False, 0, True)
        )
    # Clipped at 1 after the table was printed.
    assert flat_gradient(trainer).norm().item() == pytest.approx(min(1, table["norm"]), rel=0.01)
