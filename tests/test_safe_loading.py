"""What is loaded cannot execute anything. Oracle: a file that would exist if it had."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from helpers.chat_models import save_model
from helpers.run_contents import SMALL

from model import train
from model.args import parse_args
from model.plan.plan import plan
from model.policy.load import PolicyError, load_pretrained

MODULE = "from pathlib import Path\nPath({mark!r}).touch()\n"


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_the_bomb_works(tmp_path):
    """Negative control."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_not_executed(tmp_path, name):
    save_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": Bomb(tmp_path / "mark")}, tmp_path / "model" / name)
    with pytest.raises(PolicyError, match="holds no causal language model"):
        load_pretrained(str(tmp_path / "model"))
    assert not (tmp_path / "mark").exists()


def test_code_beside_a_model_is_not_executed(tmp_path):
    """A config that names a class of its own module, as `trust_remote_code` would import it."""
    save_model(tmp_path / "model")
    (tmp_path / "model" / "own.py").write_text(MODULE.format(mark=str(tmp_path / "mark")))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}
    config["model_type"] = "unheard_of"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(PolicyError):
        load_pretrained(str(tmp_path / "model"))
    with pytest.raises(PolicyError):
        plan(parse_args(["--plan", "--model", str(tmp_path / "model")]))
    assert not (tmp_path / "mark").exists()


def test_a_checkpoint_holds_safetensors_and_text_alone(tmp_path):
    """Nothing in it is a pickle, and pickles laid beside it are not read when it is resumed."""
    run = tmp_path / "run"
    short = [*SMALL, "--total-steps", "1", "--run-dir", str(run), "--quiet"]
    assert train.main(short) == 0
    folder = run / "checkpoints" / "step_000001"
    suffixes = {path.suffix for path in folder.iterdir()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt", ".md"}
    for name in ("optimizer.pt", "pytorch_model.bin", "trainer.pkl", "rng_state.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    assert train.main(["--resume", str(run), "--total-steps", "2", "--quiet"]) == 0
    assert not (tmp_path / "mark").exists()


def test_a_pickle_in_place_of_the_state_is_damage(tmp_path):
    run = tmp_path / "run"
    assert train.main([*SMALL, "--total-steps", "1", "--run-dir", str(run), "--quiet"]) == 0
    folder = run / "checkpoints" / "step_000001"
    for name in ("trainer.safetensors", "model.safetensors"):
        broken = Path(shutil.copytree(run, tmp_path / f"broken {name}"))
        file = broken / "checkpoints" / folder.name / name
        file.write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
        assert train.main(["--resume", str(broken), "--quiet"]) == 2
    assert not (tmp_path / "mark").exists()
