"""What a run has in memory. Oracles: arithmetic written out; the tensors of real models, steps and
caches, byte by byte; and the peaks that the allocator's events show, on models of sizes to which
nothing was fitted."""

from itertools import accumulate

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config, Qwen2ForCausalLM

from buffer.base_buff import collate
from constants import CUDA_MODEL
from custom_types import TASKS, Example, Problem, Role, Rollout
from model.args import parse_args
from model.engine import shared
from model.engine.decoding import prefill
from model.engine.sampling import sample_tokens
from model.engine.shared import SharedEngine
from model.inference import generate
from model.plan import memory
from model.plan.memory import ADAPTERS, AUTOCAST, FLOAT32, Precision, Stage, total
from model.plan.plan import GIB, read_model
from model.plan.trace import LiveBytes
from model.policy.adapters import add_adapters

STANDING = "weights", "AdamW moments", "gradients"
RANK = {FLOAT32: 0, AUTOCAST: 0, ADAPTERS: 4}


def small(precision: Precision, *, plain=False, checkpointed=True, **sizes) -> Qwen2ForCausalLM:
    """A random Qwen2 as a run in that precision has it; plain: as it is before it gets adapters."""
    shape = dict(
        vocab_size=64, hidden_size=64, intermediate_size=256, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**(shape | sizes)))
    if precision is ADAPTERS and not plain:
        pytest.importorskip("peft")
        add_adapters(model.to(torch.bfloat16), RANK[ADAPTERS])
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def autocast(precision: Precision):
    return torch.autocast("cpu", torch.bfloat16, enabled=precision is not FLOAT32)


def peak_of(run) -> int:
    """The most bytes that `run`, in one thread, held at once of what it allocated itself."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    torch.set_num_threads(threads)
    events, waiting = [], [*profiler.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    return max(accumulate(size for _, size in sorted(events)))


def tokens(rows: int, length: int, vocabulary: int) -> list[tuple[int, ...]]:
    torch.manual_seed(1)
    return [tuple(row) for row in torch.randint(0, vocabulary, (rows, length)).tolist()]


def test_parameters_by_hand():
    # A layer: q, k and v with biases, o; three MLP matrices; two norms.
    layer = 2048 * 2049 + 2 * 256 * 2049 + 2048 * 2048 + 3 * 2048 * 11_008 + 2 * 2048
    qwen = 151_936 * 2048 + 36 * layer + 2048
    layer = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 576 * 1536 + 2 * 576
    smollm2 = 49_152 * 576 + 30 * layer + 576
    assert (qwen, smollm2) == (3_085_938_688, 134_515_008)
    for name, count in ((CUDA_MODEL, qwen), ("smollm2", smollm2), ("tiny", 60_672)):
        model, _ = read_model(parse_args(["--model", name]))
        assert model.num_parameters() == count and model.device.type == "meta"


@pytest.mark.parametrize("precision", [FLOAT32, ADAPTERS])
def test_weights_gradients_and_moments_are_those_of_a_real_step(precision):
    model = small(precision)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    with autocast(precision):
        model(input_ids=torch.arange(8)[None]).logits.float().logsumexp(-1).sum().backward()
    optimizer.step()
    states = optimizer.state.values()
    moments = [state[key] for state in states for key in ("exp_avg", "exp_avg_sq")]
    sizes = memory.standing_sizes(small(precision, plain=True), precision, RANK[precision])
    assert total(sizes["weights"]) == sum(weight.nbytes for weight in model.parameters())
    assert total(sizes["gradients"]) == sum(weight.grad.nbytes for weight in trained)
    assert total(sizes["AdamW moments"]) == sum(moment.nbytes for moment in moments)


def test_three_billion_parameters_by_hand():
    model, _ = read_model(parse_args(["--model", CUDA_MODEL]))
    sizes = memory.standing_sizes(model, AUTOCAST)
    standing = sum(total(sizes[name]) for name in STANDING)
    assert standing == 16 * 3_085_938_688 and round(standing / GIB, 1) == 46.0
    assert total(sizes["output copy"]) == 2 * 151_936 * 2048
    copies = sum(total(sizes[name]) for name in memory.COPIES)
    assert round((standing + copies) / GIB, 1) == 51.7
    # Adapters of rank 32 beside q, k, v, o, gate, up and down: 32 (inputs + outputs) each.
    adapters = 36 * 32 * (4096 + 2 * (2048 + 256) + 4096 + 3 * (2048 + 11_008))
    sizes = memory.standing_sizes(model, ADAPTERS, 32)
    assert total(sizes["gradients"]) == 4 * adapters
    assert total(sizes["weights"]) == 2 * 3_085_938_688 + 4 * adapters


def measured_update(precision: Precision, row=128, floor=0.0, measure=peak_of, **sizes) -> int:
    """The peak of a microbatch after the first, 512 tokens in rows of `row`, beyond weights and
    gradients."""
    model, zeros = small(precision, **sizes), (0.0,) * (row - 2)
    engine, problem = SharedEngine(model, (), 0), Problem(TASKS[0], 2, 4, 7)
    rows = [
        [Example(Rollout(Role.SOLVER, TASKS[0], problem, ids[:2], ids[2:], zeros, "", True), 1.0)]
        for ids in tokens(512 // row, row, model.config.vocab_size)
    ]
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None

    def microbatch():
        with autocast(precision):
            scores = engine.score(collate(rows, 0), 1.0, floor)
        (scores.logprobs.sum() + scores.likely_entropy.sum()).backward()

    return measure(microbatch)


def widened(precision: Precision, model) -> int:
    """A CPU has no float32 products of narrow factors: there the output layer's weight is widened."""
    return 0 if precision is FLOAT32 else 4 * model.get_output_embeddings().weight.numel()


def planned_update(precision: Precision, row=128, floor=0.0, **sizes) -> tuple[int, str]:
    """The same, planned, and the moment."""
    model = small(precision, plain=True, **sizes)
    planned = memory.standing_sizes(model, precision, RANK[precision])
    planned |= memory.update_sizes(
        model, precision, 512, row, 512 // row * (row - 2), RANK[precision], floor
    )
    moment = memory.fullest_moment(planned, "update")
    beyond = memory.sum_of(planned, moment) - memory.sum_of(planned, STANDING)
    return beyond + widened(precision, model), moment[-1]


WIDE = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=8)
KEEPING = WIDE | dict(checkpointed=False)
WORDS, FLOOR = dict(vocab_size=4000), dict(floor=0.01)
UPDATES = [
    (FLOAT32, "layer backward", {}), (FLOAT32, "layer backward", WIDE),
    (FLOAT32, "logits backward", WORDS), (FLOAT32, "layer backward", KEEPING),
    (AUTOCAST, "layer backward", {}), (AUTOCAST, "layer backward", WIDE),
    (AUTOCAST, "logits backward", WORDS), (AUTOCAST, "layer backward", KEEPING),
    (AUTOCAST, "logits backward", KEEPING | WORDS), (FLOAT32, "logits backward", KEEPING | WORDS),
    (AUTOCAST, "logits forward", dict(num_hidden_layers=32)),
    (AUTOCAST, "logits forward", FLOOR | dict(num_hidden_layers=48, vocab_size=512)),
    (FLOAT32, "logits backward", WORDS | FLOOR), (AUTOCAST, "logits backward", WORDS | FLOOR),
    (ADAPTERS, "layer backward", {}), (ADAPTERS, "layer backward", WIDE),
    (ADAPTERS, "logits backward", WORDS), (AUTOCAST, "layer backward", dict(row=512)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("precision, moment, sizes", UPDATES)
def test_the_peak_of_an_update_is_the_allocators(precision, moment, sizes):
    planned, last = planned_update(precision, **sizes)
    measured = measured_update(precision, **sizes)
    assert last == moment and planned == pytest.approx(measured, rel=0.1)


def counted_by_trace(run) -> int:
    """`peak_of`, as `--trace` counts, the second time: it has seen weights and gradients then."""
    with LiveBytes(words=0) as counted:
        run()
        before = counted.live
        counted.start()
        run()
    return counted.peak - before


@pytest.mark.parametrize("precision", [FLOAT32, AUTOCAST, ADAPTERS])
@pytest.mark.parametrize("sizes", [WIDE, KEEPING, WORDS])
def test_a_trace_counts_what_the_allocator_gives(precision, sizes):
    """The same microbatch, with numbers."""
    counted = measured_update(precision, measure=counted_by_trace, **sizes)
    assert counted == pytest.approx(measured_update(precision, **sizes), rel=0.02)


def test_logits_come_in_chunks(monkeypatch):
    for module in (shared, memory):
        monkeypatch.setattr(module, "LOGIT_CHUNK_ELEMENTS", 64 * 4000)
    measured = measured_update(AUTOCAST, **WORDS)
    assert planned_update(AUTOCAST, **WORDS)[0] == pytest.approx(measured, rel=0.1)
    monkeypatch.setattr(memory, "LOGIT_CHUNK_ELEMENTS", 2**27)  # all 512 tokens at once: far off
    assert planned_update(AUTOCAST, **WORDS)[0] > 3 * measured


def test_the_other_modes_formula_is_far_off():
    measured = measured_update(FLOAT32, **KEEPING)
    assert planned_update(FLOAT32, **WIDE)[0] < measured / 2
    assert planned_update(AUTOCAST, **KEEPING)[0] < 0.75 * measured


@pytest.mark.parametrize("precision", [FLOAT32, AUTOCAST, ADAPTERS])
def test_the_cache_is_the_real_one(precision):
    model = small(precision).eval()
    with torch.no_grad(), autocast(precision):
        _, decoding = prefill(model, tokens(5, 7, 64), 0, 4)
    rooms = [kept for layer in decoding.cache.layers for kept in (layer.keys, layer.values)]
    planned = memory.rollout_sizes(model, precision, Stage(5, 5, 7, 4), 5)["KV cache"]
    assert total(planned) == sum(room.untyped_storage().nbytes() for room in rooms)


@pytest.mark.parametrize("rows, words", [(64, 2000), (16, 16_000)])
@pytest.mark.parametrize("precision", [FLOAT32, ADAPTERS])
def test_sampling_holds_three_float32_tables_with_the_logits(precision, rows, words):
    logits, uniform = torch.randn(rows, words), torch.rand(rows)
    parted = torch.arange(rows)
    measured = logits.nbytes + peak_of(lambda: sample_tokens(logits, 1.0, uniform, parted))
    model = small(precision, plain=True, vocab_size=words)
    planned = memory.rollout_sizes(model, precision, Stage(rows, rows, 1, 1), rows)["sampling"]
    assert total(planned) == pytest.approx(measured, rel=0.01)


ROLLOUTS = [  # rows, distinct prompts, their tokens, new tokens
    ("reading prompts", (32, 32, 64, 4), {}),
    ("reading prompts", (24, 24, 100, 4), dict(hidden_size=128, intermediate_size=512)),
    ("copied layer", (64, 8, 64, 16), dict(num_hidden_layers=12)),
    ("sampling", (64, 4, 16, 8), WORDS),
]


@pytest.mark.slow
@pytest.mark.parametrize("precision", [FLOAT32, AUTOCAST, ADAPTERS])
@pytest.mark.parametrize("moment, work, sizes", ROLLOUTS)
def test_the_peak_of_a_rollout_is_the_allocators(precision, moment, work, sizes):
    model, (rows, distinct, prompt, new) = small(precision, **sizes), work
    prompts = tokens(distinct, prompt, model.config.vocab_size) * (rows // distinct)
    settings = dict(temperature=1.0, stop_ids=(-1,), pad_id=0, generator=torch.Generator())

    def sample():
        with autocast(precision):
            generate(model, prompts, max_new_tokens=new, max_rows=rows, **settings)

    measured, model = peak_of(sample), small(precision, plain=True, **sizes)
    planned = memory.standing_sizes(model, precision, RANK[precision])
    planned |= memory.rollout_sizes(model, precision, Stage(*work), rows)
    names = memory.fullest_moment(planned, "rollout")
    beyond = memory.sum_of(planned, names) - memory.sum_of(planned, memory.STANDING)
    beyond += widened(precision, model)
    assert names[-1] == moment and beyond == pytest.approx(measured, rel=0.1)
