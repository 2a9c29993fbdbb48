"""A process of `tests/test_processes.py`: `python one_of_several.py FOLDER RUNS`.

RUNS is JSON: of each run a name, its steps and the arguments that differ. Trains `tiny` once for each, alone
or as one of torchrun's processes, and leaves in FOLDER, by name and rank, the gradient of the first update
before clipping and what every process must have in common.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from helpers.trainers import SMALL, untimed
from model.args import AZRArgs
from model.policy.tiny import build_tiny
from model.policy.warm_start import warm_start
from model.trainer import AZRTrainer
from utils.string_formatting import PromptRenderer

MOMENTS = "exp_avg", "exp_avg_sq"


def _bytes(tensor: torch.Tensor) -> int:
    """What a process has in memory of a tensor."""
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.untyped_storage().nbytes()


def trained(accelerator: Accelerator, steps: int, changes: dict) -> dict:
    """What a process has of a run."""
    args = AZRArgs(**{**SMALL, **changes, "max_grad_norm": 1e9})
    rank = accelerator.process_index
    # Weights of the first process alone count: the others start from another seed.
    policy = build_tiny(args.max_prime, seed=rank)
    renderer = PromptRenderer.for_policy(policy, args)
    warm_start(policy, renderer, AZRArgs(max_prime=13, warm_start_steps=30))
    trainer = AZRTrainer(policy, renderer, args, accelerator)

    gradients, step = [], trainer.learner.optimizer.step

    def keep_and_step():
        whole = [trainer.weights.whole(weight.grad) for weight in trainer.learner.trained]
        here = all(part is not None for part in whole)  # of shared weights, in the first process
        gradients.append(torch.cat([part.flatten() for part in whole]) if here else None)
        step()

    trainer.learner.optimizer.step = keep_and_step
    done = [trainer.step() for _ in range(steps)]
    last = done[-1].learned
    moments = trainer.learner.optimizer.state.values()
    states = [*trainer.learner.trained, *(state[name] for state in moments for name in MOMENTS)]
    return {
        "gradient": gradients[0],
        "bytes": sum(map(_bytes, states)),
        "weights": list(trainer.weights.state_dict().values()),
        "problems": trainer.problems.state_dict(),
        "advantages": last.advantages,
        "texts": [item.rollout.text for item in last.scored],
        "metrics": [untimed(step.metrics) for step in done],
        "updates": trainer.learner.updates,
    }


def main(folder: str, runs: str) -> None:
    accelerator = Accelerator(cpu=True)
    for name, (steps, changes) in json.loads(runs).items():
        kept = trained(accelerator, steps, changes)
        torch.save(kept, Path(folder) / f"{name}.{accelerator.process_index}.pt")
        accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
