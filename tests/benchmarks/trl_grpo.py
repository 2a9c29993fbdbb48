"""TRL's GRPOTrainer on the work of `throughput.py`, set up to be as fast as it can be.

Nothing is logged or saved, no reference model is loaded, and the completions of a step are in the model
together wherever memory allows. On a CPU activations are not recomputed. On a GPU they are, products are
in bfloat16, and vLLM samples in the same process where it is installed.
"""

import copy
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from random import Random

import torch
from datasets import Dataset
from helpers.trainers import flat_gradient, keep_weights, relative, trainer_of
from throughput import on_gpu, peak_gigabytes
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from buffer.base_buff import ReplayBuffer
from constants import CUDA_MODEL, SMOLLM2_MODEL, TINY_MODEL
from custom_types import TASKS, Policy, Problem, Role, Rollout, Verdict
from model.args import AZRArgs
from prime_inversion import generate_of_each_task
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_solver

ROWS = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
ANY_PROBLEM = Problem(TASKS[0], 2, 4, 7)  # no likelihood depends on it
MOST_ROWS = {
    TINY_MODEL: 768,
    SMOLLM2_MODEL: 16,
    CUDA_MODEL: 16,
}  # in the model at a time in the update


class TimedGRPOTrainer(GRPOTrainer):
    """Notes what each round of completions took, and keeps the newest."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rounds, self.made = [], None

    def _generate_and_score_completions(self, inputs):
        started = time.perf_counter()
        self.made = super()._generate_and_score_completions(inputs)
        prompts, completions = self.made["prompt_mask"], self.made["completion_mask"]
        self.rounds.append({
            "generate": time.perf_counter() - started,
            "completions": len(completions),
            "tokens": int(completions.sum()),
            "prompt": prompts.sum().item() / len(prompts),
        })  # fmt: skip
        return self.made


class Clock(TrainerCallback):
    """When the training began and when each optimizer step ended."""

    def __init__(self):
        self.times = []

    def on_train_begin(self, *args, **kwargs):
        self.times.append(time.perf_counter())

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.perf_counter())


def run(policy: Policy, args: AZRArgs, steps: int) -> dict:
    """Seconds and tokens of `steps` steps, the peak, and how far the gradients are apart."""
    problems, prompts = _prompts(policy, args, steps)
    span = args.min_prime, args.max_prime

    def reward(completions, number, **_):
        pairs = zip(completions, number, strict=True)
        return [
            float(judge_solver(text, problems[one], *span) is Verdict.CORRECT)
            for text, one in pairs
        ]

    completions = len(TASKS) * args.batch_size * args.n_attempts
    rows = min(MOST_ROWS[args.model], completions // args.minibatches)
    clock, gpu = Clock(), on_gpu(args.model)
    sampler = dict(use_vllm=True, vllm_mode="colocate") if gpu and find_spec("vllm") else {}
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=steps * args.minibatches,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=completions // args.minibatches // rows,
            steps_per_generation=completions // rows,
            num_generations=args.n_attempts,
            max_completion_length=args.max_answer_tokens,
            shuffle_dataset=False,
            temperature=args.temperature,
            top_p=1.0,
            top_k=0,
            beta=0.0,
            loss_type="grpo",
            epsilon=args.clip_low,
            learning_rate=args.lr,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            adam_beta2=args.adam_beta2,
            weight_decay=0.0,
            max_grad_norm=args.max_grad_norm,
            gradient_checkpointing=gpu,
            use_cpu=not gpu,
            bf16=gpu,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=args.seed,
            **sampler,
        )
        trainer = TimedGRPOTrainer(
            copy.deepcopy(policy.model),
            reward,
            args=config,
            train_dataset=Dataset.from_list(prompts),
            processing_class=policy.tokenizer,
            callbacks=[clock],
        )
        trainer.train()
        peak = peak_gigabytes(args.model)
        ends = clock.times[:: args.minibatches]
        for one, start, end in zip(trainer.rounds, ends, ends[1:], strict=False):
            one |= {"seconds": end - start, "update": end - start - one["generate"]}
        found = {"steps": trainer.rounds, "peak": peak}
        if not gpu:  # which has no room for two models with gradients
            found["gradient_difference"] = _gradient_difference(trainer, policy, args)
    return found


def _prompts(policy: Policy, args: AZRArgs, steps: int) -> tuple[list, list[dict]]:
    """As many problems as the steps need, and TRL's rows for them. Raises ValueError where TRL's
    reading of a prompt's text would not be ours."""
    renderer, rng = PromptRenderer.for_policy(policy, args), Random(f"{args.seed}/drawing")
    span = args.min_prime, args.max_prime
    problems = [p for _ in range(steps) for p in generate_of_each_task(args.batch_size, rng, *span)]
    ids = [renderer.solver(problem).ids for problem in problems]
    texts = [policy.tokenizer.decode(own) for own in ids]
    again = policy.tokenizer(texts)["input_ids"]
    if [tuple(own) for own in again] != ids:
        raise ValueError("TRL would read other prompts")
    return problems, [{"prompt": text, "number": n} for n, text in enumerate(texts)]


def _gradient_difference(trainer: TimedGRPOTrainer, policy: Policy, args: AZRArgs) -> float:
    """How far this project's gradient is from that of TRL's loss, over the latter's length: of the
    newest completions and of random advantages, since rewards that are all equal give none."""
    made, model = trainer.made, trainer.accelerator.unwrap_model(trainer.model)
    count = len(made["completion_ids"])
    advantages = torch.randn(count, generator=torch.Generator().manual_seed(0))
    ours = copy.deepcopy(policy.model)
    ours.load_state_dict(model.state_dict())

    rows = {key: made[key] for key in ROWS} | {"advantages": advantages}
    width = trainer.args.per_device_train_batch_size
    scale = trainer.current_gradient_accumulation_steps * width / count
    model.train()
    model.zero_grad()
    for start in range(0, count, width):
        part = {key: values[start : start + width] for key, values in rows.items()}
        (scale * trainer._compute_loss(model, part)).backward()

    rollouts = [
        Rollout(
            Role.SOLVER, TASKS[0], ANY_PROBLEM, tuple(prompt[seen > 0].tolist()),
            tuple(response[kept > 0].tolist()), (0.0,) * int(kept.sum()), "", True,
        )
        for prompt, seen, response, kept in zip(*(made[key] for key in ROWS), strict=True)
    ]  # fmt: skip
    whole = replace(args, minibatches=1, max_grad_norm=1e9)
    trainer_of_ours = trainer_of(replace(policy, model=ours), whole)
    keep_weights(trainer_of_ours)
    trainer_of_ours.learner.learn(ReplayBuffer(rollouts, advantages.tolist()), args.lr)
    wanted = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return relative(flat_gradient(trainer_of_ours), wanted)
