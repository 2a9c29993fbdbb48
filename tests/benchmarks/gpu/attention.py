"""Which of torch's attention kernels each real shape gets, what cuDNN's planning costs, and whether its
gradients are numbers."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from math import inf

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from custom_types import Policy
from gpu.bench import NEVER, Bench
from model.engine.shared import SharedEngine

CALL = "aten::scaled_dot_product_attention"
FLASH, EFFICIENT, CUDNN, MATH, OTHER = "flash", "memory-efficient", "cuDNN", "math", "other"
UNWANTED = {CUDNN, MATH, OTHER}
# What torch calls the kernels it chooses among, by what their names begin with.
CHOICES = {
    "aten::_scaled_dot_product_flash_attention": FLASH,
    "aten::_scaled_dot_product_efficient_attention": EFFICIENT,
    "aten::_scaled_dot_product_cudnn_attention": CUDNN,
    "aten::_scaled_dot_product_attention_math": MATH,
    "aten::_scaled_dot_product_fused_attention_overrideable": OTHER,
}
# What of a GPU kernel's name tells whose it is; cuDNN's hold the word flash too.
KERNELS = {"cudnn": CUDNN, "fmha_cutlass": EFFICIENT, "fmha": EFFICIENT, "flash": FLASH}
READ, DECODED, UPDATED = "prompts read", "a decoded token", "an update"
MOST_ATTENTION = 0.1  # how far gradients of bfloat16 may be from those of float32, of their length
PLANNED_TOKENS = 20


def kind_of_choice(operation: str) -> str | None:
    """What torch chose, by the name of the operation; None for one that is no attention."""
    return next((kind for name, kind in CHOICES.items() if operation.startswith(name)), None)


def kind_of_kernel(kernel: str) -> str | None:
    """Whose attention a GPU kernel is, by its name; None for one that is no attention."""
    lowered = kernel.lower()
    if not any(word in lowered for word in ("fmha", "flash", "sdpa", "attention")):
        return None
    return next((kind for word, kind in KERNELS.items() if word in lowered), OTHER)


def attention(bench: Bench) -> None:
    """A model of one layer and of the real heads does what the real one does: it reads prompts, decodes
    and is updated."""
    policy = bench.policy(num_hidden_layers=1, vocab_size=1024, intermediate_size=256)
    _work(bench, policy, bench.sizes.lengths[0])  # kernels are loaded when they are first used
    for allowed in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(allowed)
        setting = "cuDNN allowed, torch's default" if allowed else "cuDNN off"
        _kernels(bench, policy, setting, must_hold=not allowed)
        if bench.cuda:
            _planning(bench, policy, setting)
    for length in bench.sizes.masks:
        _gradients(bench, length)


def _kernels(bench: Bench, policy: Policy, setting: str, must_hold: bool) -> None:
    for length in bench.sizes.lengths:
        bench.check_time()
        events = bench.traced(lambda length=length: _work(bench, policy, length))
        for shapes, kinds in sorted(_by_shape(events).items()):
            if must_hold:
                bench.require(
                    not kinds & UNWANTED, setting, *shapes, otherwise=", ".join(sorted(kinds))
                )
            bench.say(" and ".join(sorted(kinds)), setting, *shapes, "kernel")
        names = {event.name for event in events}
        backward = {kind_of_choice(name) for name in names if "backward" in name} - {None}
        bench.say(" and ".join(sorted(map(str, backward))), setting, f"backward, {length}")
        launched = {name: kind_of_kernel(name) for name in names if not name.startswith("aten::")}
        of_attention = {name[:100]: kind for name, kind in launched.items() if kind}
        if bench.cuda:
            bench.say(sorted(of_attention), setting, f"GPU kernels, {length}")
        if must_hold:
            found = {*backward, *of_attention.values()} & UNWANTED
            bench.require(
                not found, setting, f"kernels, {length}", otherwise=", ".join(map(str, found))
            )


def _work(bench: Bench, policy: Policy, length: int) -> None:
    """Prompts of a length are read and answered, some that share most of it and some that share nothing;
    and a microbatch is differentiated."""
    rows = bench.sizes.rows[-2]
    engine = SharedEngine(policy.model, NEVER, policy.pad_id)
    alone = _small(bench.prompts(rows, length))
    common = alone[0][: length * 9 // 10]
    sharing = [common + prompt[len(common) :] for prompt in alone]
    examples = bench.examples(8, length)
    with bench.autocast():
        for prompts in (alone, sharing):
            uniform = torch.rand(len(prompts), 4, device=bench.device)
            engine.sample(prompts, uniform, 1.0)
    batch = engine.batches(examples, bench.args().microbatch_tokens)[0].to(bench.device)
    # The vocabulary here is smaller than the one that the examples are drawn from.
    batch.input_ids.remainder_(1024)
    batch.targets.remainder_(1024)
    with bench.autocast():
        loss = engine.score(batch, 1.0).logprobs.sum()
    loss.backward()
    policy.model.zero_grad()


def _small(prompts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    return [tuple(word % 1024 for word in prompt) for prompt in prompts]


def _by_shape(events: Iterable[FunctionEvent]) -> dict[tuple[str, ...], set[str]]:
    """Which kernels each shape of a call got, by the call's use and its shapes in words."""
    found = defaultdict(set)
    for event in events:
        inner = list(_below(event))
        if event.name != CALL or any(one.name == CALL for one in inner):
            continue  # autocast's, which calls again
        query, keys = event.input_shapes[0], event.input_shapes[1]
        masks = event.input_shapes[3] if len(event.input_shapes) > 3 else None
        use = DECODED if query[2] == 1 else READ
        mask = f"mask {tuple(masks)}" if masks else "no mask"
        kinds = {kind_of_choice(one.name) for one in inner} - {None}
        found[use, f"queries {tuple(query)}, keys {tuple(keys)}, {mask}"] |= kinds or {OTHER}
    return found


def _below(event: FunctionEvent) -> Iterator[FunctionEvent]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def _planning(bench: Bench, policy: Policy, setting: str) -> None:
    """Milliseconds a token while each is a new shape, and when all have been seen before."""
    rows, length = bench.sizes.rows[-2], 260
    engine = SharedEngine(policy.model, NEVER, policy.pad_id)
    prompts = _small(bench.prompts(rows, length))
    uniform = torch.rand(rows, 1 + PLANNED_TOKENS, device=bench.device)

    def sample(tokens: int) -> float:
        with bench.autocast():
            return bench.timed(lambda: engine.sample(prompts, uniform[:, :tokens], 1.0))

    sample(1)
    for name in ("new shapes", "the same shapes again"):
        bench.check_time()
        seconds = sample(1 + PLANNED_TOKENS) - sample(1)
        bench.say(1000 * seconds / PLANNED_TOKENS, setting, "ms a token of one layer", name)


def _gradients(bench: Bench, length: int) -> None:
    """Whether the gradients of each kernel are finite, and how far they are from those of float32, where a
    mask has `length` positions and what is padded sees itself alone."""
    assert length % 128 == 64
    heads, size = (16, 128) if bench.cuda else (2, 16)
    generator = torch.Generator().manual_seed(length)

    def tensor(dtype: torch.dtype) -> torch.Tensor:
        made = torch.randn(1, heads, length, size, generator=generator)
        return made.to(bench.device, dtype)

    reference = [tensor(torch.float32).requires_grad_() for _ in range(3)]
    weight = tensor(torch.float32)
    index = torch.arange(length, device=bench.device)
    padded = index >= length - 40
    seen = (index[:, None] >= index) & ~padded | (index[:, None] == index)
    masks = {"bool": seen[None, None]}
    room = torch.full(seen.shape, -inf, dtype=torch.bfloat16, device=bench.device)
    masks["additive"] = room.masked_fill(seen, 0)[None, None]

    def gradients(inputs, mask) -> torch.Tensor:
        output = scaled_dot_product_attention(*inputs, attn_mask=mask)
        found = torch.autograd.grad((output * weight.to(output.dtype)).sum(), inputs)
        return torch.cat([one.float().flatten() for one in found])

    with sdpa_kernel(SDPBackend.MATH):
        wanted = gradients(reference, masks["bool"])
    backends = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION] if bench.cuda else []
    for backend in (*backends, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        for form, mask in masks.items():
            bench.check_time()
            name = "gradients", f"mask of {length}, {form}", backend.name.lower()
            inputs = [one.detach().bfloat16().requires_grad_() for one in reference]
            try:
                with sdpa_kernel(backend):
                    found = gradients(inputs, mask)
            except RuntimeError as error:
                bench.say(f"not possible: {str(error).splitlines()[0][:80]}", *name)
                continue
            finite, off = (
                bool(found.isfinite().all()),
                float((found - wanted).norm() / wanted.norm()),
            )
            bench.say(finite, *name, "finite")
            bench.say(off, *name, "from float32, of their length")
            if backend is SDPBackend.EFFICIENT_ATTENTION:  # the one that the project relies on
                bench.require(off < MOST_ATTENTION, *name, otherwise=f"{off:.2g} off")
