"""The card of a checkpoint. Oracles: huggingface_hub's own reader, the run's logs, the parser of command lines,
two runs against each other."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from helpers.run_contents import SMALL, done_here
from huggingface_hub import ModelCard, ModelCardData

from constants import CUDA_MODEL, SMOLLM2_HUB_ID, SMOLLM2_MODEL
from custom_types import TASKS, Problem, TaskType
from model.args import CHANGEABLE, parse_args
from model.eval.finished import load_evaluator
from model.policy.load import load_pretrained
from model.presets import language_by_name
from model.proposers.table import PROPOSERS
from model.run.card import PROBLEMS, Card, counts, hub_id
from model.run.checkpoints import MANIFEST, damage, load_state
from prime_inversion import all_problems

# What the hub knows: https://huggingface.co/docs/hub/model-cards.
FIELDS = {
    "license", "license_name", "license_link", "base_model", "library_name", "pipeline_tag", "tags", "model-index",
}  # fmt: skip
PROBLEM = Problem(TaskType.DEDUCTION, 2, 4, 7)


def card_of(*argv: str, language: str | None = None) -> Card:
    args = parse_args(["--model", "tiny", *argv])
    language = language or language_by_name(args.model)
    return Card(args, language, hub_id(args.model), "What is y?\nSay it.", PROBLEM, "1234")


def checked(text: str) -> ModelCard:
    """A card as huggingface_hub reads it, whose fields are those of the hub and survive another reading."""
    card = ModelCard(text)
    found = card.data.to_dict()
    assert set(found) <= FIELDS
    assert found["library_name"] == "transformers" and found["pipeline_tag"] == "text-generation"
    assert "absolute-zero" in found["tags"] and found["license"] in ("mit", "other")
    assert ModelCardData(**found, ignore_metadata_errors=False).to_dict() == found
    return card


@pytest.mark.slow
def test_the_card_of_a_run_says_what_its_logs_say(half):
    folder = half / "checkpoints" / "step_000020"
    card = ModelCard.load(folder / "README.md")
    assert str(checked(str(card))) == str(card)
    assert card.data.license == "mit" and card.data.base_model is None
    last = json.loads((half / "metrics.jsonl").read_text().splitlines()[-1])
    evaluation = json.loads((half / "evaluations.jsonl").read_text().splitlines()[-1])
    assert len(card.data.eval_results) == len(TASKS)
    for task, result in zip(TASKS, card.data.eval_results, strict=True):
        accuracy, n = last[f"eval/accuracy_{task}"], len(evaluation[task])
        assert result.metric_value == pytest.approx(accuracy, abs=1e-4)
        assert result.dataset_config == f"{task}, {n} problems"
        assert f"| {task} | {accuracy:.3f} | {round(accuracy * n)} | {n} |" in card.text
    config = json.loads((half / "config.json").read_text())
    assert "primes: 5 to 13\n" in card.text and "steps: 20," in card.text
    assert f"commit {config['git_commit']}, " in card.text and "last evaluation" not in card.text
    (line,) = [line for line in card.text.splitlines() if line.startswith("      python ")]
    again = parse_args(shlex.split(line)[2:])
    ours = {name: value for name, value in again.as_dict().items() if name not in CHANGEABLE}
    assert ours | {"prompt_date": config["args"]["prompt_date"]} == {
        name: value for name, value in config["args"].items() if name not in CHANGEABLE
    }
    assert again.total_steps == 20


@pytest.mark.slow
def test_what_the_card_shows_runs_and_is_what_the_solver_is_asked(half):
    """Oracle: the evaluator's greedy answer to the problem with the largest prime."""
    folder = half / "checkpoints" / "step_000020"
    (shown,) = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.S)
    assert "prompt = '5..13 solve 12 * y ≡ 1 (mod 13): '\n" in shown
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=folder, capture_output=True, text=True, check=True
    )
    (answer,) = load_evaluator(folder).solve([all_problems(TaskType.DEDUCTION, 5, 13)[-1]])
    assert done.stdout.strip() == answer.text.strip() and r"\boxed{" in done.stdout


@pytest.mark.parametrize(
    "argv, wanted",
    [
        ("", "proposed by the model itself, which is self-play\n- paid for: right answers, and valid proposals, by learnability\n"),
        ("--reward format", "self-play\n- paid for: well-formed answers, and valid proposals\n"),
        ("--proposer uniform", "problems: drawn uniformly\n- paid for: right answers\n"),
        ("--proposer none --reward format", "of random ones\n- paid for: well-formed answers\n"),
        ("--proposer decoy --reward variance", "beside them\n- paid for: right answers, and valid proposals, by variance\n"),
    ],
)  # fmt: skip
def test_a_card_says_who_proposed_and_what_was_paid_for(argv, wanted):
    text = card_of(*shlex.split(argv)).text(4, None, None)
    assert wanted in text and text.count("self-play") == 2 * ("self-play" in wanted)
    assert PROBLEMS.keys() == PROPOSERS.keys()


@pytest.mark.slow
def test_the_manifest_watches_the_card_and_does_without_it(copy):
    """A checkpoint of an older version has none."""
    folder = copy / "checkpoints" / "step_000020"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert "README.md" in manifest and damage(folder) is None
    (folder / "README.md").write_text("another card")
    assert "its README.md has 12 bytes instead of" in damage(folder)
    (folder / "README.md").unlink()
    del manifest["README.md"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert damage(folder) is None and load_state(folder)["step"] == 20
    assert load_pretrained(str(folder)).prompts.name == "compact"
    done_here("--resume", "--run-dir", str(copy), "--total-steps", "25")
    assert "steps: 25," in (copy / "checkpoints" / "step_000025" / "README.md").read_text()


@pytest.mark.slow
def test_a_resumed_run_knows_its_last_evaluation(tmp_path):
    """Checkpoints between evaluations, of a run that was interrupted and of one that was not."""
    flags = [*SMALL, "--checkpoint-every", "1", "--eval-every", "2"]
    cards = []
    for name, ends in (("whole", ["4"]), ("parts", ["2", "3", "4"])):
        run = str(tmp_path / name)
        done_here(*flags, "--total-steps", ends[0], "--run-dir", run)
        for end in ends[1:]:
            done_here("--resume", "--run-dir", run, "--total-steps", end)
        cards.append(tmp_path / name / "checkpoints" / "step_000003" / "README.md")
    whole, parts = (card.read_text() for card in cards)
    assert whole == parts and "after step 2, the last evaluation" in whole


@pytest.mark.parametrize(
    "argv",
    [
        "--total-steps 9",
        "--seed 3 --max-prime 13 --no-eval-uniform --lr 3e-4 --held-out 0.25",
        "--model reasoner --batch-size 16",
        "--model smollm2 --lr 1e-4 --no-train-attempts",
        f"--model {CUDA_MODEL} --max-prime 61 --lora-rank 8 --prompt-date 2001-02-03 --train-attempts",
        "--proposer yoked --yoked-to 'a b'",
    ],
)
def test_the_command_is_the_run(argv):
    card = card_of(*shlex.split(argv))
    again = parse_args(shlex.split(card.command(9))[2:])
    changed = {name: getattr(card.args, name) for name in CHANGEABLE}
    assert replace(again, **changed) == card.args and again.total_steps == 9


def test_whose_licence_it_has():
    evaluated = counts(
        {"abduction": [[1, 1, 5, 1], [2, 3, 5, 0]], "deduction": [], "induction": []}
    )
    assert evaluated == {"abduction": (1, 2)}
    for model in ("tiny", "reasoner"):
        card = checked(card_of("--model", model, "--max-prime", "61").text(4, 4, evaluated))
        assert (card.data.license, card.data.base_model) == ("mit", None)
        assert "MIT, as the program" in card.text and "began as: random weights, then" in card.text
    for model, base in ((SMOLLM2_MODEL, SMOLLM2_HUB_ID), (CUDA_MODEL, CUDA_MODEL)):
        card = checked(card_of("--model", model, "--max-prime", "61").text(4, 4, evaluated))
        assert card.data.license == "other" and card.data.base_model == base
        assert card.data.license_link == f"https://huggingface.co/{base}"
        assert f"As its base model's, `{base}`" in card.text and f"began as: `{base}`" in card.text
    assert "It was not evaluated." in checked(card_of().text(4, None, None)).text


def test_a_local_folder_is_no_name_on_the_hub_and_its_place_is_not_told(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for model in ("models/mine", str(tmp_path / "models" / "mine")):
        card = checked(card_of("--model", model, "--max-prime", "13").text(4, None, None))
        assert card.data.license == "other" and card.data.base_model is None
        assert "As its base model's, `mine`" in card.text and "models" not in str(card)
        small = card_of("--model", model, "--max-prime", "13", language="compact")
        assert checked(small.text(4, None, None)).data.license == "mit"
    monkeypatch.chdir(tmp_path / "models" / "mine")
    here = card_of("--model", ".", "--max-prime", "13", "--proposer", "yoked", "--yoked-to", "/a/b")
    assert "# mine after 4 steps" in here.text(4, None, None) and "/a/" not in here.command(4)
    assert hub_id("/no/such/folder") is None and hub_id("some/model") == "some/model"
