"""The path of a chat model, which a GPU takes by default, on a small random Qwen2 from a local folder.

Oracle: the files of a real run.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from helpers.chat_models import byte_tokenizer, save_model
from helpers.trainers import trainer_of
from test_cli import command, rows

from custom_types import Prompt, Response, Role, TaskType
from model.args import AZRArgs
from model.engine.probe import fitted
from model.inference import rollout
from model.policy.load import PolicyError, load_policy, load_pretrained
from utils.string_formatting import PromptRenderer, decode, parse_solver


@pytest.mark.slow
def test_a_chat_model_takes_the_same_path(tmp_path):
    """A small random Qwen2 with a chat template, in a local folder, with the chat preset's switches:
    K references, answers apart from attempts, micro-batches, chat prompts."""
    save_model(tmp_path / "model")
    result = command(
        "--model", "model", "--run-dir", "run", "--total-steps", "2", "--eval-every", "2", "--batch-size", "2",
        "--n-references", "2", "--max-answer-tokens", "5", "--max-proposal-tokens", "6", "--rollout-rows", "5", "--microbatch-tokens", "3000",
        "--max-prime", "13", "--eval-problems", "2", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    transcript = rows(tmp_path / "run" / "rollouts.jsonl")[0]
    assert transcript["prompt"].startswith("<|im_start|>user\nWrite a new problem")
    assert transcript["prompt"].endswith("<|im_start|>assistant\n")
    assert transcript["prompt"].count("≡ 1 (mod ") >= 3  # two references and the example
    config = json.loads((tmp_path / "run" / "config.json").read_text())["args"]
    assert (
        config["train_attempts"] is False
        and config["lr"] == 1e-6
        and config["warm_start_steps"] == 0
    )
    last = rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["grad_norm"] is not None and last["malformed_frac/proposer_abduction"] == 1


def test_the_update_of_a_loaded_model_checkpoints_its_activations(tmp_path):
    """Each layer runs forward twice for one backward pass: once, and again to recompute."""
    save_model(tmp_path)
    args = AZRArgs(
        model=str(tmp_path), batch_size=1, n_attempts=2, max_proposal_tokens=4, max_answer_tokens=4
    )
    policy = load_policy(args)
    trainer = trainer_of(policy, args)
    played = trainer.rollout_phase()
    passes = []
    policy.model.model.layers[0].mlp.register_forward_pre_hook(
        lambda *_: passes.append(torch.is_grad_enabled())
    )
    metrics = trainer.learning_phase(played).metrics
    assert sum(passes) == 2 * trainer.learner.updates > 0
    assert metrics["grad_norm"] > 0


def test_every_stop_id_ends_a_response(tmp_path):
    """The generation config's second end token ends one too, and stays out of the text."""
    save_model(tmp_path, stop_ids=[2, 7])
    policy = load_pretrained(str(tmp_path))
    assert policy.stop_ids == (2, 7)
    prompts = [
        Prompt(Role.SOLVER, TaskType.DEDUCTION, None, "", (5, index), 30) for index in range(3, 60)
    ]
    rollouts = rollout(
        policy, prompts, temperature=1.0, max_rows=16, generator=torch.Generator().manual_seed(0)
    )
    ends = {item.response_ids[-1] for item in rollouts if item.finished}
    assert ends == {2, 7}
    for item in rollouts:
        assert not {2, 7} & set(item.response_ids[: len(item.response_ids) - item.finished])


def test_ids_that_the_tokenizer_has_no_word_for_make_a_response_unreadable(tmp_path):
    """Their text would vanish, and what is left around them could be an answer."""
    tokenizer = byte_tokenizer()
    box = tokenizer(r"\boxed{", add_special_tokens=False)["input_ids"]
    five, end = tokenizer("5}", add_special_tokens=False)["input_ids"]
    unknown = len(tokenizer) + 3
    responses = [
        Response((*box, five, end, 2), (0.0,) * (len(box) + 3), True),
        Response((*box, unknown, five, end, 2), (0.0,) * (len(box) + 4), True),
    ]
    readable, unreadable = decode(tokenizer, responses)
    assert parse_solver(readable) == 5
    assert parse_solver(unreadable) is None


def test_bfloat16_autocast_trains_the_same_path(tmp_path):
    """A step as on a GPU but for the device: finite numbers, float32 weights that moved."""
    save_model(tmp_path)
    args = AZRArgs(
        model=str(tmp_path), batch_size=2, n_attempts=2, max_proposal_tokens=4, max_answer_tokens=4
    )
    policy = load_policy(args)
    before = [weight.detach().clone() for weight in policy.model.parameters()]
    trainer = trainer_of(policy, args, accelerator=CpuAutocast())
    metrics = trainer.step().metrics
    assert math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])
    after = list(policy.model.parameters())
    assert {weight.dtype for weight in after} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


class CpuAutocast(Accelerator):
    """Accelerate refuses bf16 on some CPUs; torch's own autocast does what it would on a GPU."""

    def __init__(self):
        super().__init__(cpu=True)

    def autocast(self, *args, **kwargs):
        return torch.autocast("cpu", dtype=torch.bfloat16)


def test_a_model_that_cannot_share_prompts_is_played_plainly(tmp_path):
    """transformers' eager attention adds its mask to the scores, so one of booleans hides nothing."""
    save_model(tmp_path)
    args = AZRArgs(model=str(tmp_path), max_answer_tokens=4)
    policy = load_policy(args)
    renderer = PromptRenderer.for_policy(policy, args)
    fits, why = fitted(policy, renderer, args)
    assert (fits.engine, why) == ("shared", None)
    policy.model.set_attn_implementation("eager")
    fits, why = fitted(policy, renderer, args)
    assert fits.engine == "plain" and why.startswith("engine plain, since ") and "differ by" in why
    with pytest.raises(PolicyError, match="^--engine shared: must be plain or auto for --model"):
        fitted(policy, renderer, replace(args, engine="shared"))
