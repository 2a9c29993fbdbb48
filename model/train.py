"""Trains a policy by Absolute Zero self-play and leaves a run directory.

    python model/train.py                      # tiny on a CPU, Qwen2.5-3B-Instruct on a GPU
    python model/train.py --seed 1 --max-prime 23
    python model/train.py --resume --run-dir runs/first
    python model/train.py --help

One language model proposes problems about x * y ≡ 1 (mod p), solves them, is paid by a verifier, and
is updated with task-relative REINFORCE++. `model/trainer.py` is the method; this file is argv, seeds,
the loop and files.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # runs from any folder

from utils.before_torch import interrupts, settle

settle()
if __name__ == "__main__":
    interrupts(raised=False)

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, set_seed
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from constants import EMBEDDED_MODELS, MAXIMUM_PRIME, TINY_MODEL
from custom_types import Policy
from model.args import ArgumentError, AZRArgs, parse_args, with_prompt_date
from model.checkpoint import restore, save_policy, training_state
from model.engine.probe import fitted
from model.eval.evaluator import Evaluator, accuracy_metrics, evaluation_problems
from model.eval.prime_range import choose_max_prime
from model.optimizer import NonFiniteError
from model.plan.plan import plan
from model.policy.device import device_kind
from model.policy.language import language
from model.policy.load import PolicyError, largest_named_prime, load_policy
from model.policy.origin import require_same_origin
from model.policy.warm_start import warm_start
from model.presets import is_small
from model.recording.recorder import Recorder
from model.recording.trackers import require_packages
from model.run.checkpoints import CheckpointError, load_state
from model.run.resumption import Resumption, find_resumption, resumed_args
from model.run.rows import RunDirectoryError
from model.run.yoking import proposed_problems
from model.trainer import AZRTrainer
from prime_inversion import primes_between
from utils.allocator import keep_freed_memory
from utils.attention import avoid_cudnn_attention
from utils.files import file_error, forbidden
from utils.gpu_memory import card_memory, memory_metrics
from utils.precision import MIXED_PRECISION, leave_unwritten_memory, precision_on
from utils.processes import gather, same_weights
from utils.signals import StopSignal
from utils.string_formatting import PromptRenderer

# For one process, where there are several, to write a checkpoint that the others wait for.
PATIENCE = timedelta(hours=2)


class RunEndedError(Exception):
    """A run that cannot go on; the message is one sentence for the user."""


REFUSALS = (ArgumentError, RunDirectoryError, PolicyError, CheckpointError, RunEndedError)


def train(args: AZRArgs, resumption: Resumption | None = None) -> int:
    """One run, from arguments to a run directory, in each of its processes; the number of the signal
    that ended it, or 0. Raises RunDirectoryError, PolicyError, CheckpointError or RunEndedError.

    resumption: the run that is continued.
    """
    avoid_cudnn_attention()
    require_packages(args)
    checkpoint = resumption.checkpoint if resumption else None
    spoken = language(str(checkpoint or args.model))
    kind = device_kind(args.device, spoken)
    precision = precision_on(kind, args.precision, is_small(spoken))
    if kind == "cpu":
        keep_freed_memory()
    accelerator = _accelerator(args, kind, precision)
    if args.shard and accelerator.num_processes == 1:
        raise ArgumentError(
            "--shard: must run in several processes, which torchrun starts, and here is one; or --no-shard"
        )
    args = gather([with_prompt_date(args)])[0]  # of one day in all processes
    recorder = Recorder(args, resumption) if accelerator.is_main_process else None  # one writes
    try:
        return _train(args, resumption, accelerator, precision, recorder)
    except BaseException:  # an interrupt too
        if recorder is not None:
            recorder.discard()
        raise
    finally:
        AcceleratorState._reset_state()  # the caller's next one is its own


def _accelerator(args: AZRArgs, kind: str, precision: str) -> Accelerator:
    """accelerate on a device of this kind, in each of the run's processes. Raises ArgumentError where it
    takes another: its environment variables and an earlier run in this process have a say too."""
    AcceleratorState._reset_state()  # whoever made one before in this process, in another precision perhaps
    accelerator = Accelerator(
        cpu=kind == "cpu",  # else it takes what it finds
        mixed_precision=MIXED_PRECISION[precision],
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    taken = accelerator.device.type
    if taken != kind:
        raise ArgumentError(
            f"--device {args.device}: must be {taken}, which accelerate takes, by its environment variables or "
            f"an earlier run in this process, in the place of {kind}"
        )
    if kind == "mps" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ArgumentError("--device mps: must run in one process, and here are several")
    return accelerator


def _train(
    args: AZRArgs,
    resumption: Resumption | None,
    accelerator: Accelerator,
    precision: str,
    recorder: Recorder | None,
) -> int:
    """`train`, with what it runs on and what it writes through."""
    checkpoint = resumption.checkpoint if resumption else None
    say = recorder.say if recorder is not None else lambda line: None
    torch.use_deterministic_algorithms(accelerator.device.type == "cpu")
    leave_unwritten_memory()
    if args.undecided:
        args = _with_max_prime(args, accelerator, recorder, say)
        gc.collect()  # the policy that was asked
    set_seed(args.seed)
    policy = _policy(args, checkpoint)
    renderer = PromptRenderer.for_policy(policy, args)
    state = load_state(checkpoint) if checkpoint else None
    policy.model.to(accelerator.device)
    engine = state["engine"] if state else args.engine  # a resumed run keeps the one it began with
    policy, why = _with_engine(policy, renderer, replace(args, engine=engine))
    if state is not None and policy.origin is not None:
        require_same_origin(args.model, policy.origin, state["origin"])
    followed = proposed_problems(args) if args.yoked_to else {}
    if recorder is not None:
        recorder.start(policy, str(accelerator.device), precision, state)
    if why is not None:
        say(why)
    if args.warm_starts and state is None:
        started = time.perf_counter()
        loss = warm_start(policy, renderer, args, say)
        if recorder is not None:
            recorder.warm_started(loss, time.perf_counter() - started)
    trainer = AZRTrainer(policy, renderer, args, accelerator, followed=followed)
    evaluator = Evaluator(policy, renderer, args, trainer.sampling)
    first = 0
    if state is not None:
        restore(trainer, evaluator, state)
        first, state = trainer.steps + 1, None  # which is twice the size of the weights
    gc.collect()
    gc.freeze()  # libraries and weights stay: looking through them again for garbage takes time
    try:
        with StopSignal() as stop:
            stopped = _loop(first, trainer, evaluator, recorder, stop)
        if recorder is not None:
            recorder.finish()
    except (NonFiniteError, CheckpointError, PolicyError, OSError) as error:
        kept = "the first process says which checkpoint is the last good one"
        if recorder is not None:
            kept = recorder.last_checkpoint()
        raise RunEndedError(f"{error}; {kept}") from error
    finally:
        gc.unfreeze()  # a caller's next run needs this one's memory
    accelerator.wait_for_everyone()  # a process that ends alone would end the others
    accelerator.end_training()
    return stopped


def _with_max_prime(
    args: AZRArgs, accelerator: Accelerator, recorder: Recorder | None, say: Callable[[str], None]
) -> AZRArgs:
    """The arguments with the largest prime that `--max-prime auto` finds. Raises PolicyError, or
    ArgumentError where --held-out leaves nothing of that range.

    The policy that is asked is then let go: the run loads its own, and is to the last bit the run that is
    given this number. `tiny`, whose words are those of its range, is built and warmed up anew for each
    range that is tried. Any other policy is the same for all ranges, and its engine is tried with the
    widest.
    """
    # A range that is tried may hold nothing out, and nothing is trained.
    asked = replace(args, held_out=0.0)

    def ready(policy: Policy, widest: AZRArgs) -> Policy:
        """The policy as a run with these arguments has it before step 1."""
        renderer = PromptRenderer.for_policy(policy, widest)
        policy.model.to(accelerator.device)
        policy, _ = _with_engine(policy, renderer, widest)
        if widest.warm_starts:
            warm_start(policy, renderer, widest, say)
        same_weights(policy.model)
        return policy

    one = None  # for all ranges
    most = MAXIMUM_PRIME
    if args.model != TINY_MODEL:
        least, *_ = primes_between(args.min_prime, MAXIMUM_PRIME)
        one = _policy(replace(asked, max_prime=least), None)
        most = largest_named_prime(one)
        one = ready(one, replace(asked, max_prime=most))

    def evaluator_of(max_prime: int) -> Evaluator:
        of_range = replace(asked, max_prime=max_prime)
        policy = one or ready(_policy(of_range, None), of_range)
        renderer = PromptRenderer.for_policy(policy, of_range)
        return Evaluator(policy, renderer, of_range, accelerator.autocast)

    chosen, measured = choose_max_prime(asked, most, evaluator_of, say)
    args = replace(args, max_prime=chosen)
    if recorder is not None:
        recorder.decided(args, {"max_prime": measured})
    return args


def _policy(args: AZRArgs, checkpoint: Path | None) -> Policy:
    """The policy, of a checkpoint or as it is. Raises PolicyError, with what the system or a reader of
    weights said where that is why: a full disk, a file that may not be read or is cut off."""
    try:
        return load_policy(args, checkpoint)
    except (PolicyError, OSError, SafetensorError) as error:
        unread = forbidden(checkpoint or Path(args.model))
        cause = f"{unread} may not be read" if unread else file_error(error)
        if cause is None and isinstance(error, PolicyError):
            raise
        whose = f"--model {args.model}" if checkpoint is None else checkpoint
        raise PolicyError(f"{whose}: cannot be loaded ({cause or error})") from error


def _with_engine(
    policy: Policy, renderer: PromptRenderer, args: AZRArgs
) -> tuple[Policy, str | None]:
    """The policy with an engine that fits it, and a line where that needs one. Raises PolicyError. tiny
    is made for the shared engine, and needs no trial."""
    if args.model not in EMBEDDED_MODELS:
        return fitted(policy, renderer, args)
    engine = "plain" if args.engine == "plain" else "shared"
    return replace(policy, engine=engine, decode=args.decodes), None


def _loop(
    first: int,
    trainer: AZRTrainer,
    evaluator: Evaluator,
    recorder: Recorder | None,
    stop: StopSignal,
) -> int:
    """Steps `first` to `total_steps`, one row of metrics each; row 0 is the evaluation before training.
    Ends early after a step in which any process was asked to stop; the number of that signal, or 0."""
    args = trainer.args
    problems = evaluation_problems(args)
    for step in range(first, args.total_steps + 1):
        done = trainer.step() if step else None
        metrics, evaluated = dict(done.metrics) if done else {"step": 0}, []
        if step % args.eval_every == 0:
            started = time.perf_counter()
            evaluated = evaluator.verdicts(problems)
            metrics |= accuracy_metrics(evaluated)
            if args.eval_uniform:
                metrics |= evaluator.uniform_reward()
            metrics["time/eval"] = time.perf_counter() - started
        metrics |= memory_metrics(trainer.accelerator.device)
        if recorder is not None:
            recorder.record(metrics, done, evaluated)
        asked = max(gather([stop.number]))  # of all processes, at the same step
        due = step > 0 and step % args.checkpoint_every == 0
        if due or asked or step == args.total_steps:
            state = training_state(trainer, evaluator)  # which all processes gather
            whole = trainer.weights.state_dict() if args.shard else None
            if recorder is not None:
                save = partial(save_policy, trainer.policy, lora_rank=args.lora_rank, whole=whole)
                recorder.checkpoint(state, save)
        if asked:
            return asked
    return 0


def main(argv: Sequence[str]) -> int:
    """Exit status: 0; 2 after one sentence about what cannot be done or does not fit; or 128 and the
    number of the signal that ended the run."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        args = parse_args(argv, gpu_memory=card_memory(), language_of=language)
        if args.plan:
            text, fits = plan(args)
            print(text)
            return 0 if fits else 2
        resumption = find_resumption(args) if args.resume else None
        if resumption and resumption.saved:
            saved, folder = resumption.saved, str(resumption.run_dir)
            args = resumed_args(argv, saved, folder, resumption.step)
        stopped = train(args, resumption)
    except REFUSALS as error:
        print(error, file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"out of memory: lower --rollout-rows {args.rollout_rows} (sampling) and "
            f"--microbatch-tokens {args.microbatch_tokens} (update)"
            f"{'' if args.lora_rank else ', or train adapters with --lora-rank'}; --plan shows what a GPU is needed for, and with either of the first two "
            f"--resume goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # before the first step, or after the last
        return 128 + signal.SIGINT
    return 128 + stopped if stopped else 0


def is_out_of_memory(error: Exception) -> bool:
    """Of a GPU or its libraries, of Python, or of a CPU as torch says it."""
    said = str(error).lower()
    signs = "out of memory", "can't allocate memory", "alloc_failed"
    return isinstance(error, MemoryError) or any(sign in said for sign in signs)


if __name__ == "__main__":
    interrupts(raised=True)
    sys.exit(main(sys.argv[1:]))
