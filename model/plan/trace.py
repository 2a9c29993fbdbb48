"""What a run has in memory, by running it without numbers: `python model/train.py --plan --trace`.

The rollout and the update are the program's own, at full shape: `generate` with the shared engine, and
`Learner.learn`. The model is one of fake tensors (torch's FakeTensorMode), which have a shape and a type
and no memory. `LiveBytes` sees each operation, and counts the bytes that each new storage would take until
it is let go. What the allocator of a GPU adds is not in it, nor what a kernel needs inside.

Of a slice's tokens, which differ in nothing but how many came before, the first few are decoded and the
last few: after prompts that are as much longer.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedModel

from buffer.base_buff import ReplayBuffer
from custom_types import TASKS, Policy, Problem, Role, Rollout
from model.args import AZRArgs
from model.engine.likelihood import NARROW_PRODUCTS
from model.inference import generate, largest_slice
from model.learner import Learner
from model.plan.memory import ADAPTERS, FLOAT32, Precision, Stage, packed_row
from model.policy.adapters import inject_adapters
from model.policy.modes import recompute_activations
from model.proposers.table import PROPOSERS
from prompts import CHAT

PROBLEM = Problem(TASKS[0], 2, 4, 7)
MICROBATCHES = 2  # of an update: the second finds the gradients of the first
FEW = 4  # tokens of a slice that are decoded at its start, and at its end
END = 0  # the id that ends a response

aten = torch.ops.aten


class LiveBytes(TorchDispatchMode):
    """While it is entered, `live` are the bytes that the storages of all tensors take that it has seen,
    and `peak` is the most since `start`, of a rollout since its first token, before which it was `read`.
    words: the size of the vocabulary.

    Fake tensors have no numbers. Where the program goes by some, others stand in: see `STAND_INS`.
    """

    def __init__(self, words: int):
        super().__init__()
        self.words, self.live = words, 0
        self.rng = torch.Generator().manual_seed(0)
        self.sizes: dict[int, int] = {}  # of each storage, by its address
        self.start()

    def start(self) -> None:
        """Look for a new peak."""
        self.peak, self.read, self.drawn = self.live, 0, 0

    def watch(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is let go."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = not any(isinstance(value, FakeTensor) for value in args)
        if known or func not in STAND_INS:
            found = func(*args, **(kwargs or {}))
        else:
            found = STAND_INS[func](self, *args)
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self.watch(value)
        return found

    def number(self, unknown: Tensor) -> float | bool:
        """1. What Python asks for: a loss, a norm, whether something is finite."""
        return True if unknown.dtype is torch.bool else 1.0

    def sampled(self, cumulative: Tensor, threshold: Tensor) -> Tensor:
        """2. Tokens by their cumulative probabilities."""
        return self._tokens(threshold.shape)

    def likeliest(self, logits: Tensor, dimension: int) -> Tensor:
        """3. Tokens by their logits, or whatever else is looked for in the last dimension."""
        return self._tokens(logits.shape[:-1])

    def _tokens(self, shape: torch.Size) -> Tensor:
        """A few times any but the end, each other ones, then the end."""
        if self.drawn == 0:
            self.read, self.peak = self.peak, self.live
        self.drawn += 1
        lowest, above = (END + 1, self.words) if self.drawn <= FEW else (END, END + 1)
        return torch.randint(lowest, above, shape, generator=self.rng)


# What fake tensors need help with: operations whose results the program goes by.
STAND_INS: dict[Any, Callable] = {
    aten._local_scalar_dense.default: LiveBytes.number,
    aten.searchsorted.Tensor: LiveBytes.sampled,
    aten.argmax.default: LiveBytes.likeliest,
}


@contextmanager
def _products_of_a_gpu() -> Iterator[None]:
    """Narrow factors stay narrow, as on a GPU: fake tensors can multiply them anywhere."""
    NARROW_PRODUCTS.add("cpu")
    try:
        yield
    finally:
        NARROW_PRODUCTS.remove("cpu")


class _AsOnGpu(Accelerator):
    """On the CPU, in the precision of a GPU."""

    precision: Precision

    def autocast(self, autocast_handler: Any = None) -> Any:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision is not FLOAT32)


def _fake_model(args: AZRArgs, shape: PreTrainedModel, precision: Precision) -> PreTrainedModel:
    """As `load_policy` has it, of fake tensors."""
    dtype = torch.bfloat16 if precision is ADAPTERS else torch.float32
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config, dtype=dtype)
        if args.lora_rank:
            inject_adapters(model, args.lora_rank)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
    model.tie_weights()
    if shape.is_activation_checkpointing:
        recompute_activations(model)
    return model.eval()


def _ids(number: int, words: int, draw: Random) -> tuple[int, ...]:
    """So many tokens, any."""
    return tuple(draw.choices(range(words), k=number))


def _examples(stages: Sequence[Stage], microbatch_tokens: int, words: int) -> list[Rollout]:
    """What fills two microbatches of each stage that is trained on: responses to one prompt, as many in
    a packed row as there is room for."""
    row, draw = packed_row(stages, microbatch_tokens), Random(0)
    rollouts = []
    for stage in stages:
        prompt, length = _ids(stage.prompt_tokens, words, draw), stage.response_tokens
        rows = MICROBATCHES * max(1, microbatch_tokens // row) if stage.trained else 0
        for _ in range(rows * stage.fitting(row)):
            response, unknown = _ids(length, words, draw), (0.0,) * length
            rollouts.append(
                Rollout(Role.SOLVER, TASKS[0], PROBLEM, prompt, response, unknown, "", True)
            )
    return rollouts


def traced_peaks(
    args: AZRArgs, shape: PreTrainedModel, precision: Precision, stages: Sequence[Stage]
) -> dict[str, int]:
    """The most bytes that the rollout and the update have at once, of a run with these arguments and a
    model of that shape. Weights and AdamW's moments are among them."""
    model = _fake_model(args, shape, precision)
    policy = Policy(args.model, model, None, CHAT, (END,), END)
    accelerator = _AsOnGpu(cpu=True)
    accelerator.precision = precision
    with _products_of_a_gpu(), LiveBytes(shape.config.vocab_size) as counted:
        for weight in model.parameters():
            counted.watch(weight)
        proposer = PROPOSERS[args.proposer](policy, args, {})  # lives on: it may hold a snapshot
        learner = Learner(policy, replace(args, minibatches=1), accelerator)  # so do the moments
        examples = _examples(stages, args.microbatch_tokens, counted.words)
        for some in (examples[:1], examples):  # the first step makes the moments
            counted.start()
            learner.learn(ReplayBuffer(some, [1.0] * len(some)), args.lr)
        update = counted.peak

        rollout = 0
        for stage in stages:
            temperature = 0.0 if stage is stages[-1] else args.temperature  # evaluating is greedy
            for longer in (0, max(0, stage.response_tokens - FEW)):
                counted.start()
                with accelerator.autocast():
                    _sample(policy, stage, longer, args.rollout_rows, temperature)
                # What the longer prompts take while they are read is not the rollout's.
                rollout = max(rollout, counted.peak, 0 if longer else counted.read)
    del proposer, learner
    return {"rollout": rollout, "update": update}


def _sample(policy: Policy, stage: Stage, longer: int, most: int, temperature: float) -> None:
    """The largest slice of a stage, after prompts that are so many tokens longer and as different as
    they can be, neighbours with the same one."""
    rows = largest_slice(stage.responses, most)
    words, draw = policy.model.config.vocab_size, Random(0)
    asked = [
        _ids(stage.prompt_tokens + longer, words, draw) for _ in range(min(rows, stage.prompts))
    ]
    generate(
        policy.model,
        [asked[row * len(asked) // rows] for row in range(rows)],
        max_new_tokens=stage.response_tokens - longer,
        temperature=temperature,
        stop_ids=policy.stop_ids,
        pad_id=policy.pad_id,
        max_rows=most,
        generator=torch.Generator().manual_seed(0),
    )
