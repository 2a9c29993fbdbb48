"""A run with adapters goes on beside what they were trained beside. Oracles: what was changed in a
folder, and a run that was not interrupted."""

import json
import shutil

import pytest
import torch
from helpers.odd_models import SHAPE, SHORT, change_tensors, odd_model
from transformers import AutoTokenizer

from model import train
from model.policy.load import load_pretrained
from model.policy.origin import origin

pytest.importorskip("peft", reason="pip install peft")


def retemplate(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template + " "
    tokenizer.save_pretrained(folder)


def add_word(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["\\boxed"])
    tokenizer.save_pretrained(folder)


def one_weight(folder):
    def change(own):
        own["model.layers.0.mlp.up_proj.weight"][0, 0] += 1e-3
        return own

    change_tensors(folder, change)


def epsilon(folder):
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-3
    (folder / "config.json").write_text(json.dumps(config))


CHANGES = {
    "other weights": (lambda folder: change_tensors(folder, lambda own: {k: v * 1.5 for k, v in own.items()}), "its weights"),
    "one weight": (one_weight, "its weights"),
    "template": (retemplate, "its tokenizer or chat template"),
    "words": (add_word, "its tokenizer or chat template"),
    "configuration": (epsilon, "its configuration"),
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with a model, a run of one step with adapters beside it, and one of two steps."""
    folder = tmp_path_factory.mktemp("begun")
    model = odd_model(folder / "model", "qwen2", **SHAPE)
    for name, steps in (("one", "1"), ("two", "2")):
        flags = ["--lora-rank", "2", "--model", str(model), "--run-dir", str(folder / name)]
        assert train.main([*SHORT, *flags, "--total-steps", steps, "--quiet"]) == 0
    return folder


def numbers(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row.get("loss") for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGES)
def test_what_changed_is_refused_by_name(begun, tmp_path, capsys, kind):
    change, said = CHANGES[kind]
    folder = begun / "model"
    kept = shutil.copytree(folder, tmp_path / "kept")
    run = shutil.copytree(begun / "one", tmp_path / "run", symlinks=True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    try:
        change(folder)
        capsys.readouterr()
        assert train.main(["--resume", str(run), "--total-steps", "2", "--quiet"]) == 2
        found = capsys.readouterr().err
        assert (
            found
            == f"--model {folder}: must be what the run began with; since then {said} changed\n"
        )
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


@pytest.mark.slow
def test_what_did_not_change_goes_on_as_the_run_would_have(begun, tmp_path):
    """Under another path, and with files that were written again."""
    again = shutil.copytree(begun / "model", tmp_path / "again")
    model = load_pretrained(str(again)).model
    model.save_pretrained(again)
    run = shutil.copytree(begun / "one", tmp_path / "run", symlinks=True)
    config = json.loads((run / "config.json").read_text())
    assert config["args"]["lora_rank"] == 2
    assert train.main(["--resume", str(run), "--total-steps", "2", "--quiet"]) == 0
    assert numbers(run) == numbers(begun / "two")


def test_a_digest_is_of_the_numbers_alone(begun):
    policy = load_pretrained(str(begun / "model"))
    first = origin(policy.model, policy.tokenizer)
    policy.tokenizer("x * 4 ≡ 1 (mod 7)", padding="max_length", max_length=40)
    again = load_pretrained(str(begun / "model"))
    assert origin(again.model, again.tokenizer) == first == origin(policy.model, policy.tokenizer)
    with torch.no_grad():
        again.model.model.norm.weight[3] += 1e-6
    assert origin(again.model, again.tokenizer)["weights"] != first["weights"]
