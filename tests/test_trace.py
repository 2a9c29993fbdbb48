"""`--plan --trace`: a step that runs without numbers. Oracles: bytes by hand; the plan, whose sizes come
from formulas. `tests/test_memory.py` holds the counting to what an allocator gives."""

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.args import ArgumentError, parse_args
from model.plan import plan as plans
from model.plan.memory import MOMENTS, peak_sizes
from model.plan.plan import GIB, count_stages, memory_sizes, plan, precision_of, read_model
from model.plan.trace import END, FEW, LiveBytes, traced_peaks
from model.policy.language import language


@pytest.mark.parametrize("fake", [False, True])
def test_bytes_by_hand(fake):
    """1000 numbers of 4 bytes are there; twice, then three times as many beside them; views are nothing."""
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.no_grad():
        first = torch.ones(1000)
    with LiveBytes(words=10) as counted:
        counted.watch(first)
        second = first + 1
        counted.start()
        third = second.double()
        view = third[10:].view(-1, 2).t()
        assert counted.live == counted.peak == 4000 + 4000 + 8000
        del second, third
        assert (counted.live, counted.peak) == (12_000, 16_000)
        del view
        assert (counted.live, counted.peak) == (4000, 16_000)
        counted.start()
        assert counted.peak == 4000


def test_what_stands_in_for_unknown_numbers():
    """A few times tokens other than the end, then the end; a number is 1; what was there before the first
    token is kept apart."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.ones(5, 10)
    with LiveBytes(words=10) as counted:
        counted.watch(logits)
        larger = logits.repeat(3, 1)  # 600 bytes beside 200
        del larger
        drawn = []
        for _ in range(FEW):
            probabilities = logits.cumsum(-1)
            drawn.append(torch.searchsorted(probabilities, torch.zeros(5, 1), right=True)[:, 0])
        drawn += [logits.argmax(-1), logits.argmax(-1)]
        assert counted.read == 800 and counted.peak < 800
        assert float(logits.sum()) == 1 and bool(logits.isfinite().all())
    assert all(((tokens > END) & (tokens < 10)).all() for tokens in drawn[:FEW])
    assert all((tokens == END).all() and len(tokens) == 5 for tokens in drawn[FEW:])


def test_what_the_trace_says_is_printed_and_decides(monkeypatch):
    """Mocks: traces that fit the card, and of which one does not."""
    for rollout, fits in ((3.5, True), (77.0, False)):
        sizes = {"rollout": int(rollout * GIB), "update": 2 * GIB}
        monkeypatch.setattr(plans, "traced_peaks", lambda *args, sizes=sizes: sizes)
        text, fit = plan(parse_args(["--plan", "--trace", "--model", "tiny"]))
        assert f"traced rollout{rollout:12.1f} GiB = " in text and "traced update" in text
        assert fit is fits and ("the rollout needs over" in text) is not fits
    assert "traced" not in plan(parse_args(["--plan", "--model", "tiny"]))[0]


def test_a_trace_without_a_plan_is_refused():
    assert parse_args(["--plan", "--trace"]).trace
    with pytest.raises(ArgumentError, match="^--trace: must have --plan, "):
        parse_args(["--trace"])


# The config that Meta published for Llama-3.2-1B-Instruct, without its long contexts.
LLAMA = dict(
    model_type="llama", vocab_size=128_256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
    num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    max_position_embeddings=131_072, rope_theta=5e5, rms_norm_eps=1e-5,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-3B-Instruct", "llama", "smollm2"])
def test_the_plan_is_the_trace(model, tmp_path):
    """To 2%; a plan of half the positions in the update and half the rows in the rollout is further off."""
    if model == "llama":
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        model = str(tmp_path)

    def planned(*flags: str):
        args = parse_args(
            ["--plan", "--max-prime", "617", "--model", model, *flags], language_of=language
        )
        shape, prompts = read_model(args)
        precision, stages = precision_of(args, shape, prompts), count_stages(args, prompts)
        sizes = memory_sizes(args, shape, precision, stages)
        return peak_sizes(sizes), (args, shape, precision, stages)

    peaks, step = planned()
    half, _ = planned(
        "--microbatch-tokens", str(step[0].microbatch_tokens // 2),
        "--rollout-rows", str(step[0].rollout_rows // 2),
    )  # fmt: skip
    traced = traced_peaks(*step)
    for phase in MOMENTS:
        assert peaks[phase] == pytest.approx(traced[phase], rel=0.02)
        assert half[phase] != pytest.approx(traced[phase], rel=0.02)
