"""Decoding in place, as a GPU records it, unrecorded on a CPU. Oracle: the shared engine, which reads and
draws through the model itself."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.odd_models import GPT2, SHORT, odd_model, said_of
from helpers.odd_models import SHAPE as ODD_SHAPE
from test_engines import PAD, SHAPE, STOPS, model_of, named, uniform
from transformers import AutoConfig, AutoModelForCausalLM

from model import train
from model.args import ArgumentError, AZRArgs
from model.engine import static
from model.engine.plain import PlainEngine
from model.engine.shared import SharedEngine
from model.engine.static import StaticEngine, static_fault
from model.inference import engine_of

ROPE = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64)  # fmt: skip
GROUPED = {
    "qwen2": ("qwen2", SHAPE),  # whose queries, keys and values have biases
    "llama": ("llama", SHAPE),
    "llama, biases": ("llama", SHAPE | dict(attention_bias=True, mlp_bias=True)),
    "llama, scaled rotations": ("llama", SHAPE | dict(rope_parameters=ROPE)),
    "tied": ("qwen2", SHAPE | dict(tie_word_embeddings=True)),
    "no groups": ("llama", SHAPE | dict(num_key_value_heads=4)),
}
LONG = 40  # tokens
MANY_STOPS = tuple(range(1, 9))


def asked(n: int) -> list[tuple[int, ...]]:
    """Of 3 to 11 tokens, each twice."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randint(9, 50, (n, 12), generator=generator).tolist()
    return [tuple(ids[: 3 + k % 9]) for k, ids in enumerate(drawn) for _ in range(2)]


@pytest.fixture(params=["tiny", *GROUPED])
def model(request):
    """In float64, so that only a real mistake shows in a difference; biases are not 0."""
    if request.param == "tiny":
        return named("tiny")
    model = model_of(*GROUPED[request.param])
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.3)
    return model


@pytest.fixture
def small_steps(monkeypatch):
    """Several numbers of rows and lengths in one small test."""
    monkeypatch.setattr(static, "ROW_STEP", 2)
    monkeypatch.setattr(static, "LENGTH_STEP", 8)
    monkeypatch.setattr(static, "COUNT_EVERY", 2)


def same(ours, theirs, nats=1e-6):
    assert [r.ids for r in ours] == [r.ids for r in theirs]
    assert [r.finished for r in ours] == [r.finished for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=nats)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_it_draws_what_the_shared_engine_draws(model, small_steps, temperature):
    """Prompts of different lengths, each twice; responses that end early and late."""
    prompts, numbers = asked(12), uniform(24, LONG)
    assert static_fault(model) is None
    for stops in (MANY_STOPS, STOPS, (-1,)):
        shared, ours = (
            engine(model, stops, PAD).sample(prompts, numbers, temperature)
            for engine in (SharedEngine, StaticEngine)
        )
        same(ours, shared)
    assert max(len(r.ids) for r in ours) == LONG


def test_it_goes_through_several_shapes(small_steps, monkeypatch):
    """Else the test above would show little: fewer and fewer rows, longer and longer caches, and prompts of
    one length, which need no mask."""
    model, shapes = model_of(*GROUPED["qwen2"]), []
    read = static.StaticDecoder._read_and_draw
    monkeypatch.setattr(
        static.StaticDecoder,
        "_read_and_draw",
        lambda self, *shape: shapes.append(shape) or read(self, *shape),
    )
    prompts, numbers = asked(12), uniform(24, LONG)
    for given in (prompts, [prompt[:3] for prompt in prompts]):
        shapes.clear()
        engines = (engine(model, MANY_STOPS, PAD) for engine in (SharedEngine, StaticEngine))
        same(*(engine.sample(given, numbers, 1.0) for engine in engines))
        rows, lengths = zip(*shapes, strict=True)
        assert sorted(rows, reverse=True) == list(rows) and len(set(rows)) > 2
        assert sorted(lengths) == list(lengths) and len(set(lengths)) > 1


@pytest.mark.parametrize("name", ["qwen2", "llama"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_have_the_types_that_autocast_gives_them(name, dtype, monkeypatch):
    """In bfloat16, where each rounding shows, to the last bit: of float32 weights under autocast, and of
    weights that are narrow themselves. Attention adds up in another order where it reads another length,
    so it reads exactly what there is."""
    monkeypatch.setattr(static, "LENGTH_STEP", 1)
    model = model_of(*GROUPED[name]).to(dtype)
    for module in model.modules():  # norms as transformers has them
        module.__dict__.pop("forward", None)
    prompts, numbers = asked(12), uniform(24, LONG)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.float32):
        shared, ours = (
            engine(model, (-1,), PAD).sample(prompts, numbers, 1.0)
            for engine in (SharedEngine, StaticEngine)
        )
    same(ours, shared, nats=0)


def test_float32_weights_give_the_shared_engines_numbers():
    model = model_of(*GROUPED["qwen2"], dtype=torch.float32)
    prompts, numbers = asked(40), uniform(80, LONG)
    engines = (engine(model, MANY_STOPS, PAD) for engine in (SharedEngine, StaticEngine))
    same(*(engine.sample(prompts, numbers, 1.0) for engine in engines), nats=1e-4)


def test_weights_are_those_of_the_moment():
    """Copies are made for each call: an optimizer step in between is seen."""
    model = model_of(*GROUPED["llama"])
    engine, prompts, numbers = StaticEngine(model, STOPS, PAD), asked(6), uniform(12, 9)
    before = engine.sample(prompts, numbers, 1.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = engine.sample(prompts, numbers, 1.0)
    assert [r.ids for r in before] != [r.ids for r in after]
    same(after, SharedEngine(model, STOPS, PAD).sample(prompts, numbers, 1.0))


def test_memory_that_was_never_written_does_no_harm():
    """The cache's room beyond the tokens so far may hold anything; attention gives it weight 0, and 0 times
    NaN is NaN."""
    model = model_of(*GROUPED["llama"])
    prompts, numbers = asked(6), uniform(12, 9)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)  # what is made without a value is NaN
    try:
        ours = StaticEngine(model, STOPS, PAD).sample(prompts, numbers, 1.0)
    finally:
        torch.use_deterministic_algorithms(False)
    same(ours, SharedEngine(model, STOPS, PAD).sample(prompts, numbers, 1.0))


UNKNOWN = {
    "another architecture": ("gpt2", dict(vocab_size=50, n_embd=32, n_layer=2, n_head=4), "GPT2LMHeadModel"),
    "a window": ("qwen2", SHAPE | dict(use_sliding_window=True, sliding_window=6, max_window_layers=0), "window"),
    "rotations by length": ("llama", SHAPE | dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=2.0)), "dynamic"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_models_are_refused_with_a_reason(kind):
    name, settings, reason = UNKNOWN[kind]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings))
    assert reason in static_fault(model)


def test_adapters_are_refused():
    model = model_of(*GROUPED["llama"])

    class Adapted(torch.nn.Linear):
        pass

    attention = model.model.layers[1].self_attn
    attention.v_proj = Adapted(32, 16, bias=False)
    assert "adapters" in static_fault(model)


# ---------------------------------------------------------------- the flag


@pytest.mark.slow
def test_a_run_with_graph_is_the_run_with_eager_and_says_what_it_is(tmp_path):
    """On a CPU; tiny's evaluations, whose prompts are all different, are decoded in place from their first
    token on."""
    rows = []
    for decode in ("eager", "graph", "auto"):
        run = tmp_path / decode
        words = ["--total-steps", "2", "--max-prime", "13", "--batch-size", "8", "--warm-start-steps", "40",
                 "--eval-every", "1", "--quiet", "--decode", decode, "--run-dir", str(run)]  # fmt: skip
        assert train.main(words) == 0
        config = json.loads((run / "config.json").read_text())
        assert config["decode"] == {"auto": "eager"}.get(decode, decode)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        rows.append({k: v for k, v in last.items() if k.startswith(("eval/", "loss", "entropy/"))})
    eager, graph, auto = rows
    assert eager == auto and graph == pytest.approx(eager, rel=1e-3) and len(eager) > 4


def test_a_policy_names_its_decoding(warm_tiny):
    policy, _, _ = warm_tiny
    assert type(engine_of(replace(policy, decode="graph"))) is StaticEngine
    assert type(engine_of(policy)) is SharedEngine
    assert type(engine_of(replace(policy, engine="plain", decode="graph"))) is PlainEngine


def test_graph_is_refused_where_it_cannot_be(tmp_path, capsys):
    with pytest.raises(ArgumentError, match="--decode graph --engine plain: must have"):
        AZRArgs(decode="graph", engine="plain")
    folder = odd_model(tmp_path / "model", "gpt2", **GPT2)
    status, said = said_of(capsys, folder, "--decode", "graph")
    assert status == 2 and said.startswith("--decode graph: must be eager or auto for --model ")
    assert "its architecture is GPT2LMHeadModel" in said


@pytest.mark.slow
def test_graph_is_tried_before_a_run(tmp_path, capsys):
    """A chat model that it knows: sampler and update agree."""
    folder = odd_model(tmp_path / "model", "llama", **ODD_SHAPE)
    run = tmp_path / "run"
    words = [*SHORT, "--model", str(folder), "--run-dir", str(run), "--decode", "graph"]
    assert train.main(words) == 0
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < row["sampling/logp_difference_mean"] < row["sampling/logp_difference_max"] < 1e-3
