"""Folders whose tensors are not the model's. Oracles: what was done to a folder, and for those that must
load the weights that were saved."""

import json
import shutil

import pytest
import torch
from helpers.chat_models import byte_tokenizer
from helpers.odd_models import GPT2, SHAPE, WORDS, change_tensors, odd_model, said_of
from transformers import AutoModel, AutoModelForSequenceClassification, Qwen2Config, Qwen2Model

from model.eval import baselines
from model.eval.finished import load_evaluator
from model.policy.load import PolicyError, load_pretrained

UP = "model.layers.1.mlp.up_proj.weight"


def without_an_mlp(tensors):
    return {name: own for name, own in tensors.items() if "layers.1.mlp" not in name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: {f"module.{name}": one for name, one in own.items()}, "tensors (module.lm_head"),
        (lambda own: {f"_orig_mod.{name}": one for name, one in own.items()}, "of no use"),
        (without_an_mlp, "3 tensors (model.layers.1.mlp.down_proj.weight, model.layers.1.mlp.gate_proj.weight, model.layers.1.mlp.up_proj.weight) are missing"),
        (lambda own: own | {"score.weight": torch.ones(2, 32)}, "1 tensor (score.weight) is of no use"),
        (lambda own: own | {UP: torch.ones(48, 16)}, f"1 tensor ({UP}) is of another shape"),
        (lambda own: own | {"lm_head.weight": torch.ones(300, 32)}, "1 tensor (lm_head.weight) is of another shape"),
        (lambda own: own | {UP: torch.full((48, 32), torch.nan)}, f"must hold finite numbers; 1 tensor ({UP}) is not finite"),
        (lambda own: own | {"model.norm.weight": torch.full((32,), torch.inf)}, "(model.norm.weight) is not finite"),
        (lambda own: {name: one for name, one in own.items() if name != "lm_head.weight"}, "(lm_head.weight) is missing"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused_by_name(tmp_path, capsys, change, said):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    assert load_pretrained(str(folder))  # before
    change_tensors(folder, change)
    status, found = said_of(capsys, folder)
    assert status == 2 and said in found and found.startswith(f"--model {folder}: must hold ")
    assert baselines.main(["--model", str(folder), "--max-prime", "5"]) == 2
    assert capsys.readouterr().err == found


def test_a_checkpoint_whose_tensors_were_renamed_is_not_evaluated(tmp_path, half):
    run = shutil.copytree(half, tmp_path / "run", symlinks=True)
    assert load_evaluator(run)
    change_tensors(
        run / "checkpoints" / "step_000020", lambda own: {f"module.{k}": v for k, v in own.items()}
    )
    with pytest.raises(PolicyError, match=r"15 tensors \(lm_head.weight, .*\) are missing"):
        load_evaluator(run)


def test_a_classifier_is_refused(tmp_path, capsys):
    """Its tied embeddings would give it an output layer."""
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE, tie_word_embeddings=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(folder)
    status, said = said_of(capsys, folder)
    assert status == 2 and "must hold the tensors of a Qwen2ForCausalLM; 1 tensor (score.weight)" in said  # fmt: skip


@pytest.mark.parametrize("method", ["gptq", "fp8", "bitsandbytes", "made-up"])
def test_quantized_weights_are_refused(tmp_path, capsys, method):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    status, said = said_of(capsys, folder)
    assert status == 2 and f"its are quantized ({method})" in said


def test_adapters_of_another_model_are_refused(tmp_path, capsys):
    """Alone, and beside a whole model, where transformers adds them to it."""
    peft = pytest.importorskip("peft", reason="pip install peft")
    base = odd_model(tmp_path / "base", "qwen2", **SHAPE)
    model = load_pretrained(str(base)).model
    folder = tmp_path / "model"
    peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM")).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    assert said_of(capsys, folder)[0] == 2
    for file in folder.glob("adapter*"):
        shutil.copy(file, base)
    status, said = said_of(capsys, base)
    assert status == 2 and "must be a whole model, and holds adapters of another" in said


def test_a_tokenizer_of_another_model_is_refused(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE | dict(vocab_size=200))
    status, said = said_of(capsys, folder)
    assert status == 2 and "must have a tokenizer of its own vocabulary, 200 ids" in said


def test_an_end_token_that_the_model_cannot_write_is_refused(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "gpt2", **GPT2)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [2, 50256]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    status, said = said_of(capsys, folder)
    assert status == 2 and "its end tokens must be among the 267 ids" in said and "2, 50256" in said


def test_no_folder_of_a_language_model_is_one_sentence(tmp_path, capsys):
    folder = odd_model(tmp_path / "model", "qwen2", **SHAPE)
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    status, said = said_of(capsys, folder)
    assert status == 2 and f"--model {folder}: cannot be loaded (" in said and "header" in said


# ---------------------------------------------------------------- what must load all the same


def test_what_transformers_explains_loads(tmp_path):
    """A base model's names without its prefix, tied output layers, an image's special token above the
    embedding, buffers that older versions saved: the weights are those of the files."""
    tied = odd_model(tmp_path / "tied", "qwen2", **SHAPE, tie_word_embeddings=True)
    names = set()
    change_tensors(tied, lambda own: (names.update(own), own)[1])
    assert "lm_head.weight" not in names
    base = Qwen2Model(Qwen2Config(**SHAPE, tie_word_embeddings=True, eos_token_id=2))
    base.save_pretrained(tmp_path / "base")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<{n}>" for n in range(20)]})
    assert len(tokenizer) > WORDS
    tokenizer.save_pretrained(tmp_path / "base")
    old = odd_model(tmp_path / "old", "gpt2", **GPT2)
    mask = torch.ones(1, 1, 4, 4)
    change_tensors(
        old, lambda own: own | {f"transformer.h.{n}.attn.bias": mask.clone() for n in range(2)}
    )
    for name in ("tied", "base", "old"):
        model = load_pretrained(str(tmp_path / name)).model
        wanted = AutoModel.from_pretrained(tmp_path / name).state_dict()
        found = model.base_model.state_dict()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
