"""What the parts of `gpu_check.py` share: a device, sizes, a stopwatch, random policies, and a way to say
what they find before they end.

A part is a function of a `Bench`. It says figures as it has them (`bench.say(12.3, "rows 8", "ms")`), and
ends by returning, or with `Skipped` or `OutOfTime`. What must hold is said by `bench.require`.
"""

import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from math import ceil
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from helpers.chat_models import byte_tokenizer
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from constants import CARDS, CUDA_MODEL, GIB, MAXIMUM_PRIME, SHAPES
from custom_types import TASKS, Example, Policy, Role, Rollout
from model.args import AZRArgs
from model.policy.modes import recompute_activations
from model.policy.weights import in_short
from model.presets import preset
from prompts import CHAT
from utils.attention import avoid_cudnn_attention
from utils.gpu_memory import card_memory

NEVER = (-1,)  # an id that no model writes: every response is as long as it may be
RATE_TRIALS = 10


class Skipped(Exception):
    """A part that cannot be measured here; the message says why."""


class OutOfTime(Exception):
    """A part whose time is up; what it said before stands."""


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    shape: the model's config. settings: what of the chat preset is changed. rows: how many are decoded at
    a time. width: of these, as many as a slice of a step has. profiled: of these, what is looked into.
    question, request: tokens of the longest prompt of a solver and of a proposer. read: how many requests
    are read together. tokens: how many are decoded in the shorter and in the longer of two rollouts.
    rollout: of one that is timed as a whole.
    responses: how many examples a microbatch is made of, and their tokens. lengths: of the prompts whose
    attention is looked at: so that the keys of a decoded token, and a row of an update, are 64 modulo
    128 once. masks: lengths of that kind. matrix: the side of the matrices whose product is timed.
    """

    shape: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[int, ...]
    width: int
    profiled: tuple[int, ...]
    question: int
    request: int
    read: int
    tokens: tuple[int, int]
    rollout: int
    responses: tuple[int, int]
    lengths: tuple[int, ...]
    masks: tuple[int, ...]
    matrix: int


# As `python model/train.py` has it on one card of 80 GB.
LARGE = Sizes(
    shape=SHAPES[CUDA_MODEL],
    settings={},
    rows=(8, 96, 384, 432, 864),
    width=432,
    profiled=(96, 432),
    question=222,
    request=415,
    read=384,
    tokens=(8, 24),
    rollout=256,
    responses=(64, 512),
    lengths=(222, 290, 318, 733),
    masks=(448, 4032),
    matrix=8192,
)
# For a machine without a GPU, where only the program itself is tried.
SMALL = Sizes(
    shape=dict(
        model_type="qwen2",
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    ),
    settings=dict(
        batch_size=2,
        n_attempts=2,
        n_references=2,
        max_prime=31,
        rollout_rows=8,
        microbatch_tokens=1024,
        eval_problems=2,
    ),
    rows=(8, 16),
    width=8,
    profiled=(8,),
    question=22,
    request=41,
    read=16,
    tokens=(2, 6),
    rollout=12,
    responses=(16, 8),
    lengths=(22, 62),
    masks=(64,),
    matrix=512,
)


class Bench:
    """say: takes a figure and the words that name it. seconds: how long the part may take."""

    def __init__(
        self,
        device: torch.device,
        sizes: Sizes,
        seconds: float,
        say: Callable[..., None],
        options: Any,
    ):
        avoid_cudnn_attention()  # as model/train.py does
        self.device, self.sizes, self.options = device, sizes, options
        self.cuda = device.type == "cuda"
        self._say, self.until = say, time.monotonic() + seconds
        self.faults: list[str] = []

    def say(self, value: Any, *name: str) -> None:
        """Keep a figure under its name, which has one or more words. One that is not finite is kept as a
        text: JSON has no such numbers."""
        broken = isinstance(value, float) and not math.isfinite(value)
        self._say(str(value) if broken else value, *name)

    def require(self, holds: bool, *name: str, otherwise: str) -> None:
        """Keep whether something holds; a part of which something does not is `wrong`."""
        self._say(bool(holds), *name, "ok")
        if not holds:
            self.faults.append(f"{', '.join(name)}: {otherwise}")

    @contextmanager
    def going_on(self, *name: str) -> Iterator[None]:
        """What fails inside is a fault of the part, which goes on behind it. Memory that a GPU lacked does
        not come back, so that ends the part."""
        try:
            yield
        except (Skipped, OutOfTime, torch.OutOfMemoryError):
            raise
        except Exception as error:
            traceback.print_exc()
            self.require(False, *name, otherwise=in_short(error))

    def check_time(self) -> None:
        """Raises OutOfTime."""
        if time.monotonic() > self.until:
            raise OutOfTime

    def require_gpu(self) -> None:
        """Raises Skipped."""
        if not self.cuda:
            raise Skipped("needs a GPU")

    # ------------------------------------------------------------ measuring

    def finish(self) -> None:
        """Wait for all that was asked of the GPU."""
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, function: Callable[[], Any]) -> float:
        """Seconds of a call."""
        self.finish()
        started = time.perf_counter()
        function()
        self.finish()
        return time.perf_counter() - started

    def traced(self, function: Callable[[], Any]) -> list[FunctionEvent]:
        """What a call has torch do, on the CPU and on the GPU."""
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        with profile(activities=kinds, record_shapes=True, acc_events=True) as trace:
            function()
            self.finish()
        return list(trace.events())

    def reset_memory(self) -> None:
        """Begin to look for new peaks."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict[str, float]:
        """Of the GPU since `reset_memory`, in GiB; and how often its allocator had to start over, and
        failed, since the part began. Empty on a CPU."""
        if not self.cuda:
            return {}
        counted = torch.cuda.memory_stats()
        return {
            "allocated": torch.cuda.max_memory_allocated() / GIB,
            "reserved": torch.cuda.max_memory_reserved() / GIB,
            "retries": counted["num_alloc_retries"],
            "out of memory": counted["num_ooms"],
        }

    def matrix_rate(self) -> float:
        """Floating-point operations a second of a large matrix product, bfloat16 on a GPU: the median of
        several."""
        size, dtype = self.sizes.matrix, torch.bfloat16 if self.cuda else torch.float32
        a, b = torch.randn(2, size, size, device=self.device, dtype=dtype)
        seconds = sorted(self.timed(lambda: a @ b) for _ in range(RATE_TRIALS))
        return 2 * size**3 / seconds[len(seconds) // 2]

    # ------------------------------------------------------------ what is measured

    def autocast(self) -> AbstractContextManager:
        """The precision of training: bfloat16 on a GPU, float32 elsewhere."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda)

    def accelerator(self) -> Accelerator:
        """As `model/train.py` makes it."""
        return Accelerator(cpu=not self.cuda, mixed_precision="bf16" if self.cuda else "no")

    def args(self, **changes: Any) -> AZRArgs:
        """A run's arguments: the preset of a chat model on a large GPU, at these sizes."""
        given = {**preset("chat"), "max_prime": MAXIMUM_PRIME, **self.sizes.settings, **changes}
        memory = card_memory() if self.cuda else None
        card = planned_card(torch.cuda.get_device_name(), memory) if memory is not None else None
        return AZRArgs(model=CUDA_MODEL, card=card, **given)

    def policy(self, **changes: Any) -> Policy:
        """A chat policy with random float32 weights on the device. changes: of the model's shape."""
        shape = {**self.sizes.shape, **changes}
        torch.manual_seed(0)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape)).float()
        model.eval()
        recompute_activations(model)
        tokenizer = prompt_tokenizer()
        stops = (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
        model.generation_config.eos_token_id = stops[0]
        return Policy("random", model, tokenizer, CHAT, stops, tokenizer.pad_token_id)

    def prompts(
        self, rows: int, tokens: int, *, copies: int = 1, words: int | None = None
    ) -> list[tuple[int, ...]]:
        """Random prompts of several lengths, the longest of `tokens`, each `copies` times. words: how many
        the model has, if not those of the shape."""
        rng, words = Random(rows * tokens), words or self.sizes.shape["vocab_size"]
        lengths = [tokens - index % max(1, tokens // 8) for index in range(ceil(rows / copies))]
        distinct = [tuple(rng.randrange(words) for _ in range(length)) for length in lengths]
        return [prompt for prompt in distinct for _ in range(copies)][:rows]

    def examples(self, number: int, response: int, *, words: int | None = None) -> list[Example]:
        """Random ones, from questions and requests by turns, whose responses are equally long."""
        rng, words = Random(number), words or self.sizes.shape["vocab_size"]

        def ids(length: int) -> tuple[int, ...]:
            return tuple(rng.randrange(words) for _ in range(length))

        made = []
        for index in range(number):
            role, length = (
                (Role.SOLVER, self.sizes.question),
                (Role.PROPOSER, self.sizes.request),
            )[index % 2]
            logprobs = (-math.log(words),) * response
            task: Any = TASKS[index % len(TASKS)]
            problem: Any = None  # which no update looks at
            rollout = Rollout(role, task, problem, ids(length), ids(response), logprobs, "", True)
            made.append(Example(rollout, rng.gauss(0, 1)))
        return made


@cache
def prompt_tokenizer() -> PreTrainedTokenizerBase:
    """Pieces of the chat prompts as tokens, about as many of them a prompt as Qwen2.5's tokenizer needs."""
    texts = [*CHAT.solver.values(), *CHAT.proposer.values()]
    return byte_tokenizer().train_new_from_iterator(texts, PIECES, show_progress=False)


PIECES = 370


def multiplied(model: PreTrainedModel) -> tuple[int, int]:
    """How many weights a token is multiplied with in a model's layers, and how many in its output layer. A
    word that is read is looked up."""
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.config.tie_word_embeddings
    return model.num_parameters() - embedding - (0 if tied else head), head


def planned_card(name: str, memory: float) -> str | None:
    """Which of the cards that `--plan` knows a GPU is, by how its maker calls it and its GiB: `h100-80gb`
    of "NVIDIA H100 80GB HBM3". None for a card that the plan does not know."""
    words = name.lower().replace(" ", "")
    fits = [card for card in CARDS if card.partition("-")[0] in words]
    return min(fits, key=lambda card: abs(CARDS[card].memory - memory), default=None)


def flattened(results: dict, before: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], Any]]:
    """The figures in nested dicts, each with its name."""
    for word, value in results.items():
        name = (*before, word)
        if isinstance(value, dict):
            yield from flattened(value, name)
        else:
            yield name, value
