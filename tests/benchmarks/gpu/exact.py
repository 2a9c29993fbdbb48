"""How far the shared engine is from the plain one, and a GPU from a CPU: log-probabilities and gradients
of a small model of Qwen2's architecture, in float32 and under bfloat16 autocast.

All are compared with the plain engine on a CPU in float64.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from custom_types import Example, Response, Rollout
from gpu.bench import NEVER, Bench
from gpu.speed import decoders
from model.engine.protocol import Engine
from model.inference import ENGINES
from model.policy.modes import recompute_activations

WORDS = 512
FLOAT32 = "float32"
PRECISIONS = FLOAT32, "bfloat16 autocast"
SHAPE = dict(
    model_type="qwen2",
    vocab_size=WORDS,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    initializer_range=0.0625,  # as `embedded_policy` has it: what a model says depends on what it reads
)
QUESTIONS, COPIES, QUESTION, RESPONSE, POSITIONS = 6, 4, 60, 24, 2048
# In nats, and of the gradient's length. What bfloat16 may do beside the plain engine is a factor.
MOST_LOGPROB, MOST_GRADIENT, MOST_FACTOR = 2e-4, 2e-4, 2.0


def exact(bench: Bench) -> None:
    """Says each difference; requires those in float32 to be small, and the shared engine under autocast to
    be no further from the truth than twice the plain one."""
    torch.set_float32_matmul_precision("highest")  # no TF32
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPE)).float().eval()
    examples = _examples(bench)
    truth = _scored(copy.deepcopy(model).double(), ENGINES["plain"], examples, autocast=False)
    recompute_activations(model)
    samplers = {"plain": ENGINES["plain"], **decoders(bench)}
    devices = ["cpu", *(["cuda"] if bench.cuda else [])]
    for device in devices:
        model.to(device)
        for precision in PRECISIONS:
            found, autocast = {}, precision != FLOAT32
            for name, engine in ENGINES.items():
                bench.check_time()
                found[name] = _scored(model, engine, examples, autocast)
                _say(bench, found[name], truth, device, precision, f"{name}, from float64")
            _say(bench, found["shared"], found["plain"], device, precision, "shared from plain")
            _require(bench, found, truth, device, precision)
        for precision in PRECISIONS:
            _sampling(bench, model, samplers, device, precision)


def _examples(bench: Bench) -> list[Example]:
    """Questions with several responses each, whose gradients weigh differently."""
    prompts = bench.prompts(QUESTIONS * COPIES, QUESTION, copies=COPIES, words=WORDS)
    made = bench.examples(len(prompts), RESPONSE, words=WORDS)
    return [
        replace(one, rollout=replace(one.rollout, prompt_ids=prompt), weight=float(number))
        for number, (one, prompt) in enumerate(zip(made, prompts, strict=True))
    ]


def _scored(
    model, kind: type[Engine], examples: list[Example], autocast: bool
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all responses (n, length) and the gradient of their sum, weighted by the
    advantages, as one vector; on the CPU in float64."""
    engine, rows = kind(model, NEVER, 0), {}
    model.zero_grad()
    for batch in engine.batches(examples, POSITIONS):
        batch = batch.to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            logprobs = engine.score(batch, temperature=1.0).logprobs
        (logprobs * batch.advantages[:, None]).sum().backward()
        rows |= dict(zip(batch.weights.int().tolist(), logprobs.detach().cpu(), strict=True))
    gradient = torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()])
    ordered = torch.stack([rows[number] for number in range(len(examples))])
    return ordered.double(), gradient.double()


def _differences(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[float, float, float]:
    """The largest and the mean difference of log-probabilities, and that of the gradients as a share of
    the second's length."""
    off = (a[0] - b[0]).abs()
    return float(off.max()), float(off.mean()), float((a[1] - b[1]).norm() / b[1].norm())


def _say(bench: Bench, a, b, *name: str) -> None:
    words = "largest, nats", "mean, nats", "gradient, of its length"
    for word, value in zip(words, _differences(a, b), strict=True):
        bench.say(value, *name, word)


def _require(bench: Bench, found: dict, truth, device: str, precision: str) -> None:
    """What must hold of the shared engine, and in float32 of the plain one too."""
    errors = {name: _differences(one, truth) for name, one in found.items()}
    for name, (largest, mean, gradient) in errors.items():
        if precision == FLOAT32:
            holds = largest < MOST_LOGPROB and gradient < MOST_GRADIENT
            said = f"{largest:.2g} nats and {gradient:.2g} of the gradient"
        else:
            plain = errors["plain"]
            holds = mean < MOST_FACTOR * plain[1] and gradient < MOST_FACTOR * plain[2]
            said = f"{mean:.2g} nats in the mean, plain {plain[1]:.2g}"
        bench.require(holds, device, precision, name, otherwise=said)


def _sampling(
    bench: Bench, model, engines: Mapping[str, type[Engine]], device: str, precision: str
) -> None:
    """How many tokens each engine samples as the plain one does, of the same numbers; and how far the
    log-probabilities that it sampled by are from those of scoring, which training begins with."""
    where, autocast = (device, precision), precision != FLOAT32
    examples = _examples(bench)
    prompts = [example.rollout.prompt_ids for example in examples]
    uniform = torch.rand(len(prompts), RESPONSE, generator=torch.Generator().manual_seed(1))
    sampled: dict[str, Tensor] = {}
    apart: dict[str, tuple[float, float]] = {}
    for name, engine in engines.items():
        bench.check_time()
        with bench.going_on(*where, name):
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                found = engine(model, NEVER, 0).sample(prompts, uniform.to(device), 1.0)
            sampled[name] = torch.tensor([response.ids for response in found])
            share = float((sampled[name] == sampled["plain"]).float().mean())
            bench.say(share, *where, f"{name}, share of tokens as plain samples them")
            written = [
                replace(one, rollout=_with_response(one.rollout, response))
                for one, response in zip(examples, found, strict=True)
            ]
            scorer = ENGINES["plain" if name == "plain" else "shared"]
            scored, _ = _scored(model, scorer, written, autocast)
            off = (scored - torch.tensor([response.logprobs for response in found])).abs()
            apart[name] = float(off.mean()), float(off.max())
            title = f"{name}, sampled from scored"
            for value, word in zip(apart[name], ("mean, nats", "largest, nats"), strict=True):
                bench.say(value, *where, title, word)
            mean, largest = apart[name]
            most = MOST_FACTOR * apart["plain"][0]
            holds = mean <= most if autocast else largest < MOST_LOGPROB
            bench.require(holds, *where, title, otherwise=f"{mean:.2g} nats in the mean")


def _with_response(rollout: Rollout, response: Response) -> Rollout:
    return replace(rollout, response_ids=response.ids, old_logprobs=response.logprobs)
