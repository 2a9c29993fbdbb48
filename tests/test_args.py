"""The command line. Oracles: the presets' table and the promises about refusals, written out."""

import json
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from constants import CUDA_MODEL, ROOT
from model.args import ArgumentError, AZRArgs, parse_args

FIELDS = {item.name: item for item in fields(AZRArgs)}
CHAT = "some-hub/chat-model"

# Names that other people's scripts rely on.
FIXED = (
    "--model --total-steps --seed --run-dir --run-name --eval-every --min-prime --max-prime --temperature "
    "--lr --entropy-coef --extreme-reward --invalid-reward --batch-size --n-attempts --n-references "
    "--train-attempts --rollout-rows --wandb --debug-grads --quiet"
).split()

# A value other than the default for every field, as text and as it should arrive.
OTHER_VALUES = {
    "model": ("local/folder", "local/folder"), "run_dir": ("runs/a b", "runs/a b"),
    "run_name": ("first", "first"), "total_steps": ("7", 7), "seed": ("11", 11), "min_prime": ("7", 7),
    "max_prime": ("617", 617), "temperature": ("0.5", 0.5), "lr": ("2e-4", 2e-4),
    "clip_low": ("0.1", 0.1), "clip_high": ("0.28", 0.28), "aggregate": ("token", "token"), "engine": ("plain", "plain"), "precision": ("float32", "float32"), "decode": ("eager", "eager"), "device": ("cpu", "cpu"),
    "proposer": ("uniform", "uniform"), "reward": ("format", "format"), "advantage": ("grpo", "grpo"),
    "refill": ("uniform", "uniform"), "refill_attempts": ("12", 12), "resume": ("runs/a", "runs/a"), "card": ("a10-24gb", "a10-24gb"),
    "prompt_date": ("2024-02-29", "2024-02-29"), "adam_beta2": ("0.99", 0.99), "invalid_reward": ("-1", -1.0), "extreme_reward": ("-0.5", -0.5),
}  # fmt: skip


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def refusal(*argv: str) -> str:
    with pytest.raises(ArgumentError) as caught:
        parse_args(argv)
    return str(caught.value)


# ---------------------------------------------------------------- flags and defaults


@pytest.mark.parametrize(
    "name", sorted(FIELDS.keys() - {"yoked_to", "trace", "processes"})
)  # with others
def test_every_field_is_a_flag_and_moves_nothing_else(name):
    """Of a run that says which model: --model moves its preset, and --card and --plan move --model."""
    default = getattr(AZRArgs(), name)
    given = [] if name == "model" else ["--model", "tiny"]
    if isinstance(default, bool):
        on, off = flag(name), "--no-" + name.replace("_", "-")
        switch, back = (off, on) if default else (on, off)
        assert parse_args([*given, switch]) == replace(AZRArgs(), **{name: not default})
        assert parse_args([*given, switch, back]) == AZRArgs()
        return
    text, value = OTHER_VALUES.get(name) or (
        ("3", 3) if isinstance(default, int) else ("0.75", 0.75)
    )
    expected = replace(
        parse_args(["--model", text]) if name == "model" else AZRArgs(), **{name: value}
    )
    assert value != default
    for argv in ([flag(name), text], [f"{flag(name)}={text}"]):
        parsed = parse_args([*given, *argv])
        assert parsed == expected and type(getattr(parsed, name)) is type(value)


@pytest.mark.parametrize(
    "argv, memory, model, rank",
    [
        ([], None, "tiny", 0),
        ([], 79.1, CUDA_MODEL, 0),
        ([], 23.6, CUDA_MODEL, 32),
        (["--plan"], None, CUDA_MODEL, 0),
        (["--plan"], 23.6, CUDA_MODEL, 0),
        (["--plan", "--card", "rtx4090-24gb"], None, CUDA_MODEL, 32),
        (["--card", "a100-40gb"], 79.1, CUDA_MODEL, 32),
        (["--card", "a100-40gb", "--lora-rank", "8"], None, CUDA_MODEL, 8),
        (["--card", "a100-40gb", "--model", "smollm2"], None, "smollm2", 0),
    ],
)
def test_the_card_decides_the_model_and_its_preset(argv, memory, model, rank):
    """By the machine's own GPU, but for --card, and for --plan, which plans for an A100."""
    args = parse_args(argv, gpu_memory=memory)
    assert (args.model, args.lora_rank) == (model, rank)


def test_the_fixed_names_are_flags():
    assert set(FIXED) <= {flag(name) for name in FIELDS}


def test_without_flags_the_run_is_the_tiny_one():
    args = parse_args([])
    assert args == AZRArgs() == parse_args(["--model", "tiny"], gpu_memory=79.0)
    stated = dict(
        model="tiny", total_steps=200, batch_size=128, n_attempts=8, n_references=1, train_attempts=True,
        min_prime=5, max_prime=31, temperature=1.0, clip_low=0.2, clip_high=0.2, max_grad_norm=1.0,
        invalid_reward=-0.5, extreme_reward=0.0, seed_problems=8, aggregate="sequence",
    )  # fmt: skip
    assert {name: getattr(args, name) for name in stated} == stated
    assert args.total_steps % args.eval_every == 0  # so that the last step evaluates
    assert args.warm_starts and not replace(args, warm_start_steps=0).warm_starts


CHAT_VALUES = dict(
    batch_size=32, n_attempts=8, n_references=6, train_attempts=False, max_proposal_tokens=512, max_answer_tokens=512,
    min_prime=5, max_prime="auto", lr=1e-6, total_steps=200, rollout_rows=432, adam_beta2=0.999,
    entropy_coef=0.001, minibatches=3, lr_warmup=0, refill="uniform", lr_half_life=0.0, eval_problems=128,
    eval_uniform=False, share_triples=False, proposer_weight=1.0, crowding_cost=0.0, keep_checkpoints=1,
    checkpoint_every=20,
)  # fmt: skip


@pytest.mark.parametrize("model", [CHAT, CUDA_MODEL, "./models/mine", "Tiny"])
def test_any_other_model_gets_the_chat_preset(model):
    args = parse_args(["--model", model])
    assert {name: getattr(args, name) for name in CHAT_VALUES} == CHAT_VALUES
    assert args.model == model and not args.warm_starts
    unchanged = FIELDS.keys() - CHAT_VALUES.keys() - {"model", "warm_start_steps"}
    assert {n: getattr(args, n) for n in unchanged} == {n: getattr(AZRArgs(), n) for n in unchanged}


def test_a_flag_beats_the_preset():
    args = parse_args(["--lr", "1e-5", "--model", CHAT, "--train-attempts", "--max-prime", "13"])
    assert args == replace(
        parse_args(["--model", CHAT]), lr=1e-5, train_attempts=True, max_prime=13
    )


def test_a_gpu_decides_the_default_model():
    assert parse_args([], gpu_memory=79.0) == parse_args(["--model", CUDA_MODEL])
    assert parse_args(["--seed", "3"], gpu_memory=79.0) == parse_args(
        ["--model", CUDA_MODEL, "--seed", "3"]
    )
    assert CUDA_MODEL == "Qwen/Qwen2.5-3B-Instruct"


@pytest.mark.parametrize("argv", [[], ["--model", CHAT, "--lr", "1", "--run-name", "a", "--wandb"]])
def test_arguments_survive_a_config_file(argv):
    args = parse_args(argv)
    assert AZRArgs(**json.loads(json.dumps(args.as_dict()))) == args


def test_help_shows_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_args(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, item in FIELDS.items():
        assert flag(name) in text and " ".join(item.metadata["help"].split()) in text
        assert item.default is None or f"[{item.default}]" in text


@pytest.mark.parametrize("argv, sentence", [
    ("--shard --lora-rank 8", "--shard --lora-rank 8: must have one of them"),
    ("--shard --proposer frozen", "--shard --proposer frozen: must have one of them"),
    ("--shard --reward alignment --no-eval-uniform", "--shard --reward alignment: must have one of them"),
    ("--shard --debug-grads 2", "--shard --debug-grads 2: must have one of them"),
    ("--processes 2", "--processes 2: must have --plan"),
    ("--processes 0", "--processes 0: must be an integer from 1 to 4096"),
    ("--plan --shard", "--plan --shard: must have --processes with at least 2"),
    ("--plan --trace --processes 2", "--trace --processes 2: must have 1"),
])  # fmt: skip
def test_what_several_processes_cannot_do(argv, sentence):
    assert refusal("--model", "tiny", *argv.split()).startswith(sentence)


# ---------------------------------------------------------------- refusals

WRONG_VALUES = [
    ("--total-steps", "-1", "an integer of at least 0"),
    ("--total-steps", "ten", "an integer of at least 0"),
    ("--total-steps", "1.5", "an integer of at least 0"),
    ("--total-steps", "", "an integer of at least 0"),
    ("--seed", "-1", "an integer"),
    ("--min-prime", "4", "an integer from 5 to 617"),
    ("--max-prime", "618", "an integer from 5 to 617"),
    ("--max-prime", "1e2", "an integer from 5 to 617"),
    ("--batch-size", "0", "an integer of at least 1"),
    ("--n-attempts", "0", "an integer of at least 1"),
    ("--n-references", "0", "an integer of at least 1"),
    ("--rollout-rows", "0", "an integer of at least 1"),
    ("--eval-every", "0", "an integer of at least 1"),
    ("--minibatches", "0", "an integer of at least 1"),
    ("--debug-grads", "-2", "an integer of at least 0"),
    ("--temperature", "0", "a number from 0.01 to 100"),
    ("--temperature", "nan", "a number from 0.01 to 100"),
    ("--lr", "0", "a number above 0"),
    ("--lr", "-0.001", "a number above 0"),
    ("--lr", "inf", "a number above 0"),
    ("--lr", "fast", "a number above 0"),
    ("--extreme-reward", "nan", "a number"),
    ("--invalid-reward", "-inf", "a number"),
    ("--entropy-coef", "-0.1", "a number of at least 0"),
    ("--clip-low", "1.5", "a number from 0 to 1"),
    ("--adam-beta2", "1", "a number from 0 to 0.9999"),
    ("--aggregate", "mean", "sequence or token"),
    ("--run-name", "a/b", "a plain folder name"),
    ("--run-name", "..", "a plain folder name"),
    ("--run-name", "", "a plain folder name"),
]


@pytest.mark.parametrize("name, value, allowed", WRONG_VALUES)
def test_a_wrong_value_is_refused_with_flag_value_and_what_is_allowed(name, value, allowed):
    for argv in (
        [f"{name}={value}"],
        ["--model", CHAT, f"{name}={value}"],
        ["--quiet", f"{name}={value}"],
    ):
        message = refusal(*argv)
        assert message.startswith(f"{name} ") and value in message
        assert message.partition(": must be ")[2].startswith(allowed)
        assert "\n" not in message


@pytest.mark.parametrize(
    "argv, parts",
    [
        (
            ["--min-prime", "13", "--max-prime", "7"],
            ["--min-prime 13", "--max-prime 7", "must be a prime"],
        ),
        (
            ["--min-prime", "24", "--max-prime", "28"],
            ["--min-prime 24", "--max-prime 28", "must be a prime"],
        ),
        (["--run-name", "a", "--run-dir", "b"], ["--run-name a", "--run-dir", "not both"]),
        (["--lr"], ["--lr", "expected one argument"]),
        (["--quiet=yes"], ["--quiet", "yes"]),
        (["--total-steps", "5", "7"], ["7", "not a flag"]),
        (["--totl-steps", "5"], ["--totl-steps", "did you mean --total-steps?"]),
        (["--temprature=1"], ["--temprature=1", "did you mean --temperature?"]),
        (
            ["--total", "5"],
            ["--total", "not a flag"],
        ),  # no abbreviations: they break when a flag is added
        (["--zzz"], ["--zzz", "--help lists the flags"]),
    ],
)
def test_other_refusals_say_what_is_wrong(argv, parts):
    message = refusal(*argv)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_seed_that_a_random_stream_would_refuse_is_refused_at_once():
    np.random.RandomState(2**32 - 1)  # one of the generators that a run seeds, and its limit
    assert parse_args(["--seed", str(2**32 - 1)]).seed == 2**32 - 1
    with pytest.raises(ValueError):
        np.random.RandomState(2**32)
    assert refusal("--seed", str(2**32)).startswith(f"--seed {2**32}: must be ")


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", True),
        ("lr", "1"),
        ("total_steps", 2.0),
        ("quiet", 1),
        ("model", None),
        ("aggregate", ""),
    ],
)
def test_the_dataclass_refuses_values_of_another_type(name, value):
    with pytest.raises(ArgumentError, match=f"{flag(name)} {value}: must be "):
        AZRArgs(**{name: value})


def test_only_who_looks_into_a_model_folder_opens_it(tmp_path):
    """By what Python reports of the files that it opens, in a process of its own; with what looks into
    folders the config is read, and makes the preset that of `tiny`, whose default is 128."""
    (tmp_path / "config.json").write_text('{"prompt_set": "compact"}')
    code = f"""
import sys
from model.args import parse_args
from model.policy.language import language
opened = []
sys.addaudithook(lambda event, given: event == "open" and opened.append(str(given[0])))
for looks in (dict(), dict(language_of=language)):
    opened.clear()
    args = parse_args(["--model", {str(tmp_path)!r}], **looks)
    print(args.batch_size, sum({str(tmp_path)!r} in path for path in opened))
"""
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.split() == ["32", "0", "128", "1"], said.stderr
