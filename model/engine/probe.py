"""Whether this program can train a model: sampling, update and the model itself agree on how likely a
response is, at the lengths that the run may have.

Both sampling and updates read prompts that share what they have in common, by a mask of which token
sees which; sampling goes on one token at a time. A model that looks through a window, counts positions
in a way of its own, keeps a state instead of a cache, or changes what its output layer gives would be
sampled as one model and trained as another, without a word.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from buffer.base_buff import collate, microbatches
from custom_types import ROLES, Example, Policy, Prompt, Role, Rollout
from model.args import AZRArgs
from model.inference import evaluating, generate_rows, response_logprobs
from model.policy.limits import longest_prompts, require_room
from model.policy.prompt_check import require_prompts
from model.policy.weights import PolicyError, in_short
from utils.string_formatting import PromptRenderer

COPIES = 2  # responses to a prompt, so that packed rows part behind one
MOST = 1e-3  # nats between two ways to compute a token in float32
MOST_OF_16_BITS = 0.05  # nats, in the mean


def require_trainable(
    policy: Policy, renderer: PromptRenderer, args: AZRArgs, roles: Sequence[Role] = ROLES
) -> None:
    """Raise PolicyError where a policy cannot play `roles` with these arguments, or not be trained on it.

    Costs two responses of full length to each of at most six prompts, scored three times: on a GPU
    about one slice of rollouts, for SmolLM2 28 s of one core.
    """
    prompts = longest_prompts(renderer, args, roles)
    require_prompts(policy, renderer, prompts)
    require_room(policy, prompts)
    try:
        with evaluating(policy.model):
            worst = differences(policy, prompts, args)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of whatever an architecture does with a cache or a mask
        if "allocate memory" in str(error):
            raise
        raise PolicyError(
            f"--model {policy.name}: cannot be sampled and trained by this program ({in_short(error)})"
        ) from error
    exact = all(own.dtype is torch.float32 for own in policy.model.parameters())
    most = MOST if exact else MOST_OF_16_BITS
    if not all(difference <= most for difference in worst.values()):
        where, difference = max(worst.items(), key=lambda one: one[1])
        raise PolicyError(
            f"--model {policy.name}: must be a model that reads attention masks by position and whose "
            f"logits are its output layer's; {where} and the model itself differ by {difference:.2g} nats a token"
        )


@torch.no_grad()
def differences(policy: Policy, prompts: Sequence[Prompt], args: AZRArgs) -> dict[str, float]:
    """How far each way to compute a response's log-probabilities is from the model's own, in nats: of the
    token that is furthest, or in the mean where rounding may change a token by much."""
    rollouts = _sampled(policy, prompts, args)
    found = {
        "sampling": [own.old_logprobs for own in rollouts],
        "scoring": _scored(policy, rollouts, args),
    }
    with torch.enable_grad():
        found["the update"] = _scored(policy, rollouts, args)
    wanted = torch.cat([plain_logprobs(policy.model, own) for own in rollouts])
    measure = torch.mean if _rounds_much(policy.model) else torch.max
    return {
        name: float(measure((torch.tensor(sum(map(list, own), [])) - wanted).abs()))
        for name, own in found.items()
    }


def _rounds_much(model) -> bool:
    """Whether rounding can send a token elsewhere: to another expert, or by weights of 16 bits."""
    settings = model.config.get_text_config(decoder=True).to_dict().items()
    routed = any("expert" in key and type(value) is int and value > 1 for key, value in settings)
    return routed or any(own.dtype is not torch.float32 for own in model.parameters())


def _sampled(policy: Policy, prompts: Sequence[Prompt], args: AZRArgs) -> list[Rollout]:
    """Responses to prompts, each of all the tokens that it may have, sampled as in training."""
    rollouts, generator = [], torch.Generator().manual_seed(args.seed)
    for length in sorted({prompt.max_tokens for prompt in prompts}):
        asked = [own for own in prompts if own.max_tokens == length for _ in range(COPIES)]
        uniform = torch.rand(len(asked), length, generator=generator)
        never = (-1,)  # no token ends a response
        responses = generate_rows(
            policy.model, [own.ids for own in asked], uniform, 1.0, never, policy.pad_id, len(asked)
        )
        rollouts += [
            Rollout(own.role, own.task, own.problem, own.ids, found.ids, found.logprobs, "", False)
            for own, found in zip(asked, responses, strict=True)
        ]
    return rollouts


def _scored(policy: Policy, rollouts: Sequence[Rollout], args: AZRArgs) -> list[Sequence[float]]:
    """The log-probabilities of each response as the update computes them."""
    examples = [Example(own, 0.0) for own in rollouts]
    found = {}
    for part in microbatches(examples, args.microbatch_tokens):
        batch = collate(part, policy.pad_id).to(policy.model.device)
        logprobs, *_ = response_logprobs(policy.model, batch, temperature=1.0)
        owners = [example for row in part for example in row]
        for example, own in zip(owners, logprobs.tolist(), strict=True):
            found[id(example)] = own[: len(example.rollout.response_ids)]
    return [found[id(example)] for example in examples]


@torch.no_grad()
def plain_logprobs(model, own: Rollout) -> Tensor:
    """Log-probabilities of a response, (T,) float32 on the CPU, by the forward pass that transformers documents:
    one sequence, no cache, all of its logits."""
    ids = torch.tensor([own.prompt_ids + own.response_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    chosen = logits[len(own.prompt_ids) - 1 : -1].float().log_softmax(-1)
    return chosen.gather(1, ids[0, len(own.prompt_ids) :, None]).squeeze(1).cpu()
