"""`--plan`. Oracles: arithmetic written out, and a real tokenizer's counts."""

from dataclasses import replace

import pytest

from custom_types import TASKS
from model.args import parse_args
from model.plan.memory import AUTOCAST, Stage, rollout_sizes
from model.plan.plan import GIB, count_stages, plan, read_model, seconds
from model.policy.load import load_policy
from model.policy.tiny import build_tiny
from model.policy.weights import PolicyError
from prime_inversion import all_problems
from prompts import CHAT, COMPACT, DIALOGUE
from utils.string_formatting import PromptRenderer


def test_a_step_by_hand():
    proposing, solving, evaluating = count_stages(
        parse_args(["--plan", "--max-prime", "617"]), CHAT
    )
    ask, question = proposing.prompt_tokens, solving.prompt_tokens
    assert proposing == Stage(96, 96, ask, 512, 96, 96)
    assert solving == Stage(96 * 8 + 96, 96, question, 512, 96, 96)
    assert evaluating == Stage(3 * 128, 3 * 128, question, 512, 384, 0)
    args = parse_args(["--plan", "--max-prime", "617", "--train-attempts", "--proposer", "frozen"])
    proposing, solving, _ = count_stages(args, CHAT)
    assert proposing == Stage(96, 96, ask, 512, 96, 0)
    assert solving == Stage(768, 768, question, 512, 96, 768)


def test_prompts_are_as_long_as_the_longest_of_tiny():
    args = parse_args(["--max-prime", "13", "--n-references", "2"])
    renderer = PromptRenderer.for_policy(build_tiny(13, 0), args)
    problems = [one for task in TASKS for one in all_problems(task, 5, 13)]
    ask = max(len(renderer.proposer(one.task, [one, one]).ids) for one in problems)
    question = max(len(renderer.solver(one).ids) for one in problems)
    assert [stage.prompt_tokens for stage in count_stages(args, COMPACT)] == [
        ask,
        question,
        question,
    ]


def test_estimated_prompts_are_no_shorter_than_a_real_tokenizers():
    # Counted by SmolLM2's own tokenizer and template, with primes up to 617 and limits of 512.
    for language, known, real in ((CHAT, "6", (318, 161)), (DIALOGUE, "1", (261, 221))):
        stages = count_stages(
            parse_args(["--plan", "--max-prime", "617", "--n-references", known]), language
        )
        for tokens, stage in zip(real, stages[:2], strict=True):
            assert tokens <= stage.prompt_tokens <= 1.5 * tokens


def test_seconds_by_hand():
    # 1 + 2 slices of 512 steps of 36 layers of 1 to 1.2 ms, and 96 (415 + 222) tokens read at 2 P operations of 0.35 of
    # 312e12 a second; 96 (415 + 222 + 2 * 511) positions, each 4 + 2/3 times 2 P and 4 * 36 * 2048 * 3002 of attention.
    rate, forward = 0.35 * 312e12, 2 * 3_085_938_688
    least, most = (
        3 * 512 * 36 * launch + 96 * (415 + 222) * forward / rate for launch in (1e-3, 1.2e-3)
    )
    update = 159_264 * (4 + 2 / 3) * (forward + 4 * 36 * 2048 * 3002) / rate
    line = f"{least:.0f} to {most:.0f} of rollout, {update:.0f} of updating, estimated"
    assert line in plan(parse_args(["--plan"]))[0]


def test_the_plan_counts_the_slices_that_are_sampled():
    """864 answers in slices of at most 384: 3 of 288, which take as long as 3 of 384 and less memory;
    proposals are 96, and evaluation problems 384."""
    args = parse_args(["--plan", "--max-prime", "617", "--rollout-rows", "384"])
    model, language = read_model(args)
    stages = count_stages(args, language)
    rows = [rollout_sizes(model, AUTOCAST, stage, 384)["KV cache"][0][0] for stage in stages]
    assert rows == [96, 288, 384]
    found = {most: seconds(replace(args, rollout_rows=most), model, AUTOCAST, stages[:2])[0][0]
             for most in (384, 432, 863)}  # fmt: skip
    assert found[384] - found[432] == pytest.approx(512 * 36 * 1e-3)  # one pass less
    assert found[432] == found[863]


def sizes_of(text: str) -> dict[str, float]:
    """GiB by name, of the lines of a plan."""
    lines = [line.partition(" GiB = ") for line in text.splitlines()]
    return {
        " ".join(left.split()[:-1]): float(left.split()[-1]) for left, found, _ in lines if found
    }


SEVEN = "--model Qwen/Qwen2.5-7B-Instruct --max-prime 617"


@pytest.mark.parametrize("processes, fits", [(2, False), (4, True), (8, True)])
def test_a_7b_model_that_processes_share_by_hand(processes, fits):
    """Its 7,615,616,512 parameters: two of the size of its vocabulary, a norm, and 28 layers."""
    table, width, mlp = 152_064 * 3584, 3584, 18_944
    attention = 2 * width * width + 2 * width * 512 + width + 2 * 512  # q, k, v have biases
    layer = attention + 3 * width * mlp + 2 * width
    rest = 2 * table + width
    assert rest + 28 * layer == 7_615_616_512
    text, found = plan(parse_args(f"--plan --shard --processes {processes} {SEVEN}".split()))
    sizes = sizes_of(text)
    part = (rest + 28 * layer) / processes
    for name, wanted in {
        "weights": 4 * part, "AdamW moments": 8 * part, "gradients": 4 * part,
        "gathered layers": 2 * 28 * layer, "gathered rest": 4 * rest, "rest gradient": 4 * rest,
        "fetched layers": 10 * layer, "while it is loaded": 4 * 7_615_616_512 + 4 * part,
        "disk, checkpoint": 12 * 7_615_616_512,
        "KV cache": 28 * 2 * 512 * 2 * 734 * min(432, 864 // processes),
    }.items():  # fmt: skip
        assert sizes[name] == pytest.approx(wanted / GIB, abs=0.051), name
    assert found is fits and ("\nFits: " in text) is fits


def test_processes_that_have_all_weights_share_the_work_alone():
    one, four = (plan(parse_args(["--plan", *more]))[0] for more in ([], ["--processes", "4"]))
    alone, sharing = sizes_of(one), sizes_of(four)
    same = "weights", "AdamW moments", "gradients", "activations kept", "disk, checkpoint"
    assert all(alone[name] == sharing[name] for name in same)
    assert " 48 of updating" in one and " 12 of updating" in four
    assert "491,520 sampled" in one and "491,520 sampled" in four  # of all together
    assert "memory and seconds are those of one process, which has all weights" in " ".join(
        four.split()
    )
    assert "--processes" not in one


def test_a_model_that_cannot_be_loaded_whole_does_not_fit():
    """On a card of 24 GB the 28 GiB of its float32 weights do not fit, though a part of them would."""
    flags = f"--plan --shard --processes 64 --card rtx4090-24gb --lora-rank 0 {SEVEN}"
    text, fits = plan(parse_args(flags.split()))
    assert not fits and "Does not fit: the loading" in text


def test_tokens_with_and_without_sharing_by_hand():
    """Attempts share their problem's prompt; of 512 tokens the model reads all but the last."""
    shared = 96 * (415 + 222) + (96 + 864) * 511, 96 * (415 + 222) + (96 + 96) * 511
    apart = (96 + 96) * (415 + 511) + (864 + 96) * (222 + 511)
    text = " ".join(plan(parse_args(["--plan"]))[0].split())
    assert f"tokens computed {sum(shared):,} = {shared[0]:,} of rollout + {shared[1]:,} of" in text
    assert f"each prompt once; {apart:,} if every response had its prompt to itself" in text
    # All 768 attempts trained on: their 96 prompts are computed once there too.
    text = " ".join(plan(parse_args(["--plan", "--train-attempts"]))[0].split())
    scored = 96 * (415 + 511) + 96 * 222 + 768 * 511
    apart = 2 * 96 * (415 + 511) + 2 * 768 * (222 + 511)
    assert f"+ {scored:,} of update" in text and f"once; {apart:,} if every" in text


@pytest.mark.parametrize("flags", [
    "", "--card rtx4090-24gb", "--card a10-24gb", "--card a100-40gb", "--model smollm2", "--model tiny",
])  # fmt: skip
def test_the_presets_fit_their_cards(flags):
    text, fits = plan(parse_args(["--plan", *flags.split()]))
    assert fits and "\nFits: " in text
    assert max(map(len, text.splitlines())) <= 100
    for line in text.splitlines():  # and each size is what the formula beside it says
        size, _, formula = line.partition(" GiB = ")
        if formula[:1].isdigit():
            value = eval(formula.replace(",", "").replace("x", "*")) / GIB
            assert float(size.split()[-1]) == pytest.approx(value, abs=0.051)


@pytest.mark.parametrize("flags, turns", [
    ("--card rtx4090-24gb --lora-rank 0", {"--lora-rank"}),
    ("--rollout-rows 2000 --n-attempts 32", {"--rollout-rows", "--max-answer-tokens"}),
    ("--microbatch-tokens 100000", {"--microbatch-tokens"}),
    ("--card a10-24gb --microbatch-tokens 100000", {"--microbatch-tokens"}),
])  # fmt: skip
def test_what_does_not_fit_names_the_flags_to_turn(flags, turns):
    text, fits = plan(parse_args(["--plan", *flags.split()]))
    words = text[text.index("Does not fit:") :].split()
    assert not fits and {word.strip(",.") for word in words if "--" in word} == turns | {"--card"}


def test_a_folder_is_planned_as_it_is_loaded(tmp_path):
    build_tiny(13, 0).model.save_pretrained(tmp_path)
    build_tiny(13, 0).tokenizer.save_pretrained(tmp_path)
    for name in ("tiny", str(tmp_path)):
        args = parse_args(["--model", name, "--max-prime", "13"])
        loaded, (model, language) = load_policy(args), read_model(args)
        assert language is loaded.prompts is COMPACT
        assert model.num_parameters() == loaded.model.num_parameters()
        assert model.is_activation_checkpointing == loaded.model.is_activation_checkpointing


def test_a_folder_without_a_language_model_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(PolicyError, match="^--model .*: has no config of a language model"):
        plan(parse_args(["--plan", "--model", str(tmp_path)]))


@pytest.mark.parametrize(
    "flags, number", [("", 10), ("--total-steps 201", 11), ("--checkpoint-every 50", 4)]
)
def test_the_time_of_checkpoints_by_hand(flags, number):
    """12 bytes for each of 3,085,938,688 parameters are 37.03 GB: 37 s at 1 GB/s, 185 s at 0.2."""
    text = " ".join(plan(parse_args(["--plan", *flags.split()]))[0].split())
    least, most = (round(number * 12 * 3_085_938_688 / rate / 60) for rate in (1e9, 0.2e9))
    assert (
        f"writing checkpoints 37 to 185 seconds each, at 1.0 to 0.2 GB/s; {least} to {most} min"
        in text
    )
    assert f"of the run for {number}, in which the GPU waits" in text


def gib(text: str, name: str) -> float:
    """What the line of that name says."""
    return float(next(line for line in text.splitlines() if line.startswith(name))[20:26])


def test_alignment_keeps_weights_their_movement_and_a_gradient():
    """12 bytes for each of 3,085,938,688 parameters, of which each checkpoint has the 4 of the weights."""
    flags = ["--plan", "--no-eval-uniform"]
    texts = [
        plan(parse_args([*flags, "--reward", reward]))[0] for reward in ("alignment", "variance")
    ]
    assert "movement              34.5 GiB = 3,085,938,688 x 12\n" in texts[0]
    assert "movement" not in texts[1]
    for name, each in (("peak of the update", 12), ("disk, checkpoint ", 4)):
        more = gib(texts[0], name) - gib(texts[1], name)
        assert more == pytest.approx(3_085_938_688 * each / GIB, abs=0.1)


def test_a_snapshot_is_the_weights_once_more():
    """In memory and in each checkpoint: 4 bytes for each of the 3,085,938,688 parameters, 11.5 GiB."""
    texts = {
        proposer: plan(parse_args(["--plan", "--proposer", proposer]))[0]
        for proposer in ("frozen", "untrained")
    }
    weights = "3,085,938,688 x 4"
    assert f"frozen proposer       11.5 GiB = {weights}\n" in texts["frozen"]
    assert "frozen proposer" not in texts["untrained"]
    # Neither proposer's proposals are trained on, so nothing else differs.
    for name in ("peak of the rollout", "peak of the update", "disk, checkpoint "):
        frozen, untrained = (gib(text, name) for text in texts.values())
        assert frozen - untrained == pytest.approx(3_085_938_688 * 4 / GIB, abs=0.1)
