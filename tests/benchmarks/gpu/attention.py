"""Which of torch's attention kernels each real shape gets, what cuDNN's planning costs, and whether its
gradients are numbers."""

from collections import defaultdict
from collections.abc import Iterator
from math import inf

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from custom_types import Policy
from gpu.bench import NEVER, Bench
from gpu.speed import decoders
from model.engine.protocol import Engine
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
READ, DECODED, UPDATED = "prompts and updates read", "a decoded token", "an update's gradient"
RAN = "kernels that the GPU ran"
WORDS = 1024  # of the model that is looked at
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
    and is updated. It is asked as the project has it, and as torch is by default."""
    policy = bench.policy(num_hidden_layers=1, vocab_size=WORDS, intermediate_size=256)
    engines = {
        name: kind(policy.model, NEVER, policy.pad_id) for name, kind in decoders(bench).items()
    }
    for setting, allowed in {"without cuDNN": False, "by default": True}.items():
        torch.backends.cuda.enable_cudnn_sdp(allowed)
        for name, engine in engines.items():
            with bench.going_on(setting, name):
                found = _kernels(bench, engine)
                for (use, kind), shapes in found.items():
                    bench.say(sorted(shapes), setting, name, use, kind)
                wrong = sorted({kind for _, kind in found} & UNWANTED)
                if not allowed:
                    bench.require(not wrong, setting, name, otherwise=" and ".join(wrong))
        if bench.cuda:
            with bench.going_on(setting, "planning"):
                _planning(bench, policy, setting)
    for length in bench.sizes.masks:
        _gradients(bench, length)


def _kernels(bench: Bench, engine: Engine) -> dict[tuple[str, str], set[str]]:
    """What attention is used for and a kind of kernel that it got: the shapes that got it; and the names
    of the kernels that the GPU ran."""
    found = defaultdict(set)
    for length in bench.sizes.lengths:
        bench.check_time()
        for event in bench.traced(lambda length=length: _work(bench, engine, length)):
            for use, kind, shape in chosen(event):
                found[use, kind].add(shape)
            kind = kind_of_kernel(event.name)
            if event.device_type == DeviceType.CUDA and kind:
                found[RAN, kind].add(event.name[:120])
    return found


def _work(bench: Bench, engine: Engine, length: int) -> None:
    """Prompts of a length are read and answered, some that share nothing and some that share most of it;
    and a microbatch is differentiated."""
    alone = bench.prompts(bench.sizes.width, length, words=WORDS)
    common = alone[0][: length * 9 // 10]
    sharing = [common + prompt[len(common) :] for prompt in alone]
    examples = bench.examples(8, length, words=WORDS)
    batch, *_ = engine.batches(examples, bench.args().microbatch_tokens)
    with bench.autocast():
        for prompts in (alone, sharing):
            engine.sample(prompts, torch.rand(len(prompts), 4, device=bench.device), 1.0)
        loss = engine.score(batch.to(bench.device), 1.0).logprobs.sum()
    loss.backward()
    engine.model.zero_grad()


def chosen(event: FunctionEvent) -> Iterator[tuple[str, str, str]]:
    """Of a call of attention what it is for, the kind of kernel that torch chose, and the shapes; nothing
    of another event."""
    inner = list(_below(event))
    kind = kind_of_choice(event.name)
    if kind and event.name.endswith("_backward"):
        yield UPDATED, kind, f"gradient {tuple(event.input_shapes[0])}"
    if event.name != CALL or any(one.name == CALL for one in inner):
        return  # autocast's, which calls again
    query, keys, _, *others = event.input_shapes
    mask = f"mask {tuple(others[0])}" if others and others[0] else "no mask"
    use = DECODED if query[2] < keys[2] else READ
    for kind in {kind_of_choice(one.name) for one in inner} - {None} or {OTHER}:
        yield use, str(kind), f"queries {tuple(query)}, keys {tuple(keys)}, {mask}"


def _below(event: FunctionEvent) -> Iterator[FunctionEvent]:
    for child in event.cpu_children:
        yield child
        yield from _below(child)


def _planning(bench: Bench, policy: Policy, setting: str) -> None:
    """Milliseconds a token while each is a new shape, and when all have been seen before."""
    rows, length = bench.sizes.width, 260  # which no other part of this has
    engine = SharedEngine(policy.model, NEVER, policy.pad_id)
    prompts = bench.prompts(rows, length, words=WORDS)
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
