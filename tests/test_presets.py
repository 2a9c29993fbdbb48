"""Which policy a name means, and whether it is one like `tiny`. Oracles: runs of the same model under
several names, and what the embedded policy itself gets."""

import json
import os
import shutil

import pytest
import torch
from helpers.odd_models import SHAPE, SHORT, odd_model

from model import train
from model.args import AZRArgs, parse_args
from model.plan.plan import plan
from model.policy.language import language, same_model
from model.policy.load import load_policy
from model.policy.tiny import build_tiny
from model.presets import SMOLLM2_PRESET, is_small, preset


@pytest.fixture
def saved_tiny(tmp_path):
    policy = build_tiny(13, 0)
    for part in (policy.model, policy.tokenizer):
        part.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_the_language_of_a_model_decides(saved_tiny, tmp_path):
    chat = odd_model(tmp_path / "chat", "qwen2", **SHAPE)
    odd = odd_model(tmp_path / "odd", "qwen2", **SHAPE, prompt_set="klingon")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"prompt_set": ["compact"]}')
    said = {
        "tiny": "compact", "smollm2": "dialogue", str(saved_tiny): "compact", str(chat): "chat",
        str(odd): "chat", str(tmp_path / "broken"): "chat", "some/hub-id": "chat", "Tiny": "chat",
    }  # fmt: skip
    assert {name: language(name) for name in said} == said
    assert [name for name in said if is_small(language(name))] == ["tiny", str(saved_tiny)]
    assert preset(said[str(saved_tiny)]) == preset("compact") == {} != preset(said[str(chat)])
    assert preset(said["smollm2"]) == SMOLLM2_PRESET


def test_a_saved_tiny_is_treated_as_tiny(saved_tiny, monkeypatch):
    """No recomputed activations, float32 with adapters and a GPU too, the same plan but for its name."""
    embedded = load_policy(AZRArgs(max_prime=13))
    args = AZRArgs(model=str(saved_tiny), max_prime=13)
    loaded = load_policy(args)
    assert not embedded.model.is_activation_checkpointing
    assert not loaded.model.is_activation_checkpointing and not args.warm_starts
    plans = [
        plan(parse_args(["--plan", "--model", name, "--max-prime", "13"], language_of=language))[0]
        for name in ("tiny", str(saved_tiny))
    ]
    first, second = (" ".join(text.split()) for text in plans)
    assert first.removeprefix("tiny") == second.removeprefix(str(saved_tiny))
    pytest.importorskip("peft", reason="pip install peft")
    # A mock: what a machine with a GPU would say.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    adapted = load_policy(AZRArgs(model=str(saved_tiny), max_prime=13, lora_rank=2))
    assert {one.dtype for one in adapted.model.parameters()} == {torch.float32}


def test_a_saved_tiny_stays_on_the_cpu(saved_tiny, tmp_path, monkeypatch):
    """A mock says that there is a GPU, which there is not: a run that asked for it would fail."""
    asked = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(train, "Accelerator", lambda cpu, **others: asked.append(cpu) or 1 / 0)
    for name in (str(saved_tiny), "tiny", str(odd_model(tmp_path / "chat", "qwen2", **SHAPE))):
        with pytest.raises(ZeroDivisionError):
            train.train(AZRArgs(model=name, max_prime=13, run_dir=str(tmp_path / "run")))
    assert asked == [True, True, False]


@pytest.mark.slow
def test_a_run_that_goes_on_knows_its_language_by_its_checkpoint(saved_tiny, tmp_path):
    """The folder that it began with may be gone."""
    run = tmp_path / "run"
    flags = ["--max-prime", "13", "--total-steps", "1", "--batch-size", "4", "--eval-every", "1"]
    assert train.main([*flags, "--model", str(saved_tiny), "--run-dir", str(run), "--quiet"]) == 0
    shutil.rmtree(saved_tiny)
    assert language(str(run / "checkpoints" / "step_000001")) == "compact"
    assert train.main(["--resume", str(run), "--total-steps", "2", "--quiet"]) == 0


@pytest.mark.slow
def test_paths_of_one_folder_are_one_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = odd_model(tmp_path / "m" / "q1", "qwen2", **SHAPE)
    other = odd_model(tmp_path / "m" / "q2", "qwen2", **SHAPE)
    os.symlink(folder, "link")
    start = [*SHORT, "--model", "m/q1/", "--run-dir", "run", "--quiet"]
    assert train.main(start) == 0
    steps = 1
    for name in ("m/q1", "./m/q1", "m/../m/q1/", str(folder), "link"):
        steps += 1
        again = ["--resume", "--run-dir", "run", "--quiet", "--model", name]
        assert train.main([*again, "--total-steps", str(steps)]) == 0, name
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config["args"]["model"] == "m/q1/"
    capsys.readouterr()
    for name in (str(other), "m", "m/q3", "tiny"):
        again = ["--resume", "--run-dir", "run", "--quiet", "--model", name]
        assert train.main([*again, "--total-steps", "9"]) == 2
        said = capsys.readouterr().err
        assert said == f"--model {name}: must be m/q1/, as in the run that goes on\n"


def test_names_that_are_no_folder_are_only_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert same_model("tiny", "tiny") and same_model("a/b", "a/b")
    assert not same_model("tiny", "./tiny") and not same_model("./tiny", "tiny")
    assert not same_model("a/b", "a/b/") and not same_model("a/b", "a/c")
