"""What decoding, reading prompts and updating cost, and what they have in memory."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from gpu.bench import NEVER, Bench, multiplied
from gpu.planned import planned
from model.args import AZRArgs
from model.engine.protocol import Engine
from model.engine.shared import SharedEngine
from model.engine.static import StaticEngine
from model.inference import slices
from model.learner import Learner

# Names of CUDA's calls, as the profiler has them.
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")  # what they begin with
SYNCHRONISATIONS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
COPIES = 8  # of a prompt, as attempts have it
LONG = 478  # tokens before those that are decoded: a question and half an answer
TRACED = (3, 5)  # tokens of two rollouts that are looked into
DENOMINATOR = 64.0
BEGUN = 12  # tokens of a rollout, after which all it needs is in memory


def decoders(bench: Bench) -> dict[str, type[Engine]]:
    """The engines that sample, by what `--decode` calls them: those that are wanted."""
    known = {"eager": SharedEngine, "graph": StaticEngine}
    wanted = bench.options.decode
    return {name: engine for name, engine in known.items() if wanted in ("both", name)}


def decode(bench: Bench) -> None:
    """Milliseconds a token: the difference of a longer rollout and a shorter one."""
    policy = bench.policy()
    for name, kind in decoders(bench).items():
        sampler = kind(policy.model, NEVER, policy.pad_id)
        with bench.going_on(name):
            _decoded(bench, name, sampler)


def _decoded(bench: Bench, name: str, sampler: Engine) -> None:
    sizes = bench.sizes
    _sample(bench, sampler, sizes.rows[0], sizes.question, sizes.tokens[1])()  # warm-up
    questions = [(rows, sizes.question) for rows in sizes.rows]
    longer = [(sizes.width, LONG)] if bench.cuda else []
    for rows, length in [*questions, *longer]:
        bench.check_time()
        where = name, f"{rows} rows" + (f" after {length} tokens" if length == LONG else "")
        shorter, whole = (
            min(bench.timed(_sample(bench, sampler, rows, length, tokens)) for _ in range(2))
            for tokens in sizes.tokens
        )
        tokens = sizes.tokens[1] - sizes.tokens[0]
        bench.say(1000 * (whole - shorter) / tokens, *where, "ms a token")
        bench.say(rows * tokens / (whole - shorter), *where, "tokens/s")
    for rows in sizes.profiled:
        bench.check_time()
        for word, value in _looked_into(bench, sampler, rows).items():
            bench.say(value, name, f"{rows} rows", f"{word} a token")
    bench.check_time()
    where = name, f"{sizes.width} rows", f"a rollout of {sizes.rollout} tokens"
    bench.reset_memory()
    bench.say(
        bench.timed(_sample(bench, sampler, sizes.width, sizes.question, sizes.rollout)),
        *where,
        "seconds",
    )
    bench.say(bench.memory(), *where, "memory, GiB")


def _sample(
    bench: Bench, sampler: Engine, rows: int, length: int, tokens: int
) -> Callable[[], None]:
    """A rollout of so many rows and tokens, to be called. Its prompts are read too."""
    prompts = bench.prompts(rows, length, copies=COPIES)
    uniform = torch.rand(rows, tokens, generator=torch.Generator().manual_seed(rows))
    uniform = uniform.to(bench.device)

    def sample() -> None:
        with bench.autocast():
            sampler.sample(prompts, uniform, 1.0)

    return sample


def _looked_into(bench: Bench, sampler: Engine, rows: int) -> dict[str, float]:
    """What torch and CUDA do for a decoded token: the difference of two rollouts, by token."""
    counts = [
        counted(bench.traced(_sample(bench, sampler, rows, bench.sizes.question, tokens)))
        for tokens in TRACED
    ]
    tokens = TRACED[1] - TRACED[0]
    return {name: (counts[1][name] - counts[0][name]) / tokens for name in counts[1]}


def counted(events: list[FunctionEvent]) -> dict[str, float]:
    """Operations of torch, launches of kernels, waits for the GPU, copies, and milliseconds in which the GPU
    is busy."""
    names = Counter(event.name for event in events)

    def of(*beginnings: str) -> int:
        return sum(count for name, count in names.items() if name.startswith(beginnings))

    on_gpu = [event for event in events if event.device_type == DeviceType.CUDA]
    return {
        "operations": of("aten::"),
        "kernel launches": of(*LAUNCHES),
        "synchronisations": of(*SYNCHRONISATIONS),
        "copies": of("cudaMemcpy"),
        "ms of a busy GPU": sum(event.time_range.elapsed_us() for event in on_gpu) / 1000,
    }


def prefill(bench: Bench) -> None:
    """Requests that share nothing, read together; one token of each is sampled."""
    policy, sizes = bench.policy(), bench.sizes
    sampler = SharedEngine(policy.model, NEVER, policy.pad_id)
    prompts = bench.prompts(sizes.read, sizes.request)
    uniform = torch.rand(len(prompts), 1, device=bench.device)

    def read() -> None:
        with bench.autocast():
            sampler.sample(prompts, uniform, 1.0)

    read()
    bench.reset_memory()
    seconds = min(bench.timed(read) for _ in range(2))
    tokens = sum(map(len, prompts))
    bench.say(tokens, "tokens")
    bench.say(seconds, "seconds")
    bench.say(tokens / seconds, "tokens/s")
    body, head = multiplied(policy.model)
    work = 2 * (body * tokens + head * len(prompts))
    bench.say(work / seconds / bench.matrix_rate(), "utilisation, of the rate of a matrix product")
    bench.say(bench.memory(), "memory, GiB")


def update(bench: Bench) -> None:
    """A full microbatch as `Learner` has it: forward and backward pass, and then the optimizer's step."""
    policy, args = bench.policy(), bench.args()
    learner = Learner(policy, args, bench.accelerator())
    examples = bench.examples(*bench.sizes.responses)
    batch = learner.engine.batches(examples, args.microbatch_tokens)[0]
    positions, responses = batch.input_ids.numel(), int(batch.response_mask.sum())
    bench.say(positions, "positions")
    bench.say(responses, "response tokens")

    def differentiate() -> None:
        learner._add_gradient([batch], None, DENOMINATOR)

    differentiate()  # warm-up
    bench.check_time()
    bench.reset_memory()
    seconds = min(bench.timed(differentiate) for _ in range(3))
    bench.say(seconds, "seconds, forward and backward")
    bench.say(bench.memory(), "memory, GiB")
    rate = bench.matrix_rate()
    bench.say(rate / 1e12, "matrix product, TFLOP/s")
    # Multiplications and additions: 2 a weight in a forward pass, 4 in a backward pass; attention's own
    # are left out. Only response tokens get logits.
    body, head = multiplied(policy.model)
    for name, passes in {"utilisation": 6, "utilisation, with what is recomputed": 8}.items():
        work = passes * (body * positions + head * responses)
        bench.say(work / seconds / rate, f"{name}, of the rate of a matrix product")
    learner.optimizer.zero_grad()
    learner._update([batch], None, DENOMINATOR)  # which makes the moments
    whole = bench.timed(lambda: learner._update([batch], None, DENOMINATOR))
    bench.say(whole - seconds, "seconds, optimizer")
    bench.say(bench.memory(), "memory with moments, GiB")


class _Begun(Exception):
    """A rollout is so far that all it needs is in memory."""


def memory(bench: Bench) -> None:
    """Peaks of steps, their rollouts begun and left, beside the plan's."""
    bench.require_gpu()
    policy, args, sizes = bench.policy(), bench.args(), bench.sizes
    for name, peak in planned(args).peaks.items():
        bench.say(peak, "planned, GiB", name)
    learner = Learner(policy, args, bench.accelerator())
    problems = 3 * args.batch_size
    answers = problems * (1 + args.n_attempts)
    examples = bench.examples(2 * problems // args.minibatches, args.max_answer_tokens)
    batches = learner.engine.batches(examples, args.microbatch_tokens)[:2]
    begun = {"proposals": (problems, sizes.request, 1)}
    for number, rows in enumerate(slices(answers, args.rollout_rows), 1):
        begun[f"answers, slice {number}"] = rows.stop - rows.start, sizes.question, COPIES
    engines = decoders(bench)
    for turn, name in enumerate(("eager", "eager", "graph"), 1):
        if name not in engines:
            continue
        sampler = engines[name](policy.model, NEVER, policy.pad_id)
        for stage, (rows, length, copies) in begun.items():
            bench.check_time()
            bench.reset_memory()
            _begin(bench, sampler, args, bench.prompts(rows, length, copies=copies))
            bench.say(bench.memory(), f"step {turn}, {name}", f"{stage}, {rows} rows")
        bench.check_time()
        bench.reset_memory()
        learner._update(batches, None, DENOMINATOR)
        bench.say(bench.memory(), f"step {turn}, {name}", "update")


def _begin(bench: Bench, sampler: Engine, args: AZRArgs, prompts: list[tuple[int, ...]]) -> None:
    """A rollout's first tokens, with room for all; a recorded one, which does not call the model, whole."""
    uniform = torch.rand(len(prompts), args.max_answer_tokens, device=bench.device)
    calls = Counter()

    def count(*_) -> None:
        calls["model"] += 1
        if calls["model"] > BEGUN:
            raise _Begun

    handle = sampler.model.base_model.register_forward_pre_hook(count)
    try:
        with bench.autocast():
            sampler.sample(prompts, uniform, 1.0)
    except _Begun:
        pass
    finally:
        handle.remove()
