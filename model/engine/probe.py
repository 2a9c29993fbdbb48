"""Which engine a policy gets, found out by trying at the lengths that the run may have.

An engine fits a model where sampling, scoring and the update all find a response as likely as the model
itself does, one whole sequence at a time. The shared engine does not fit a model that looks through a
window, counts positions in another way, or changes what its output layer gives: such a model would
be sampled as one model and trained as another, without a word. The plain engine fits nearly all of them,
at more cost. A model that neither fits cannot be trained here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from custom_types import ROLES, Policy, Prompt, Role, Rollout
from model.args import AZRArgs
from model.engine.plain import PlainEngine
from model.engine.protocol import Engine
from model.engine.shared import SharedEngine
from model.engine.static import StaticEngine, static_fault
from model.policy.limits import longest_prompts, narrow_window, require_positions
from model.policy.modes import evaluating
from model.policy.prompt_check import require_prompts
from model.policy.weights import PolicyError, in_short
from utils.string_formatting import PromptRenderer

COPIES = 2  # responses to a prompt, so that packed rows part behind one
MOST = 1e-3  # nats between two ways to compute a token in float32
MOST_OF_16_BITS = 0.05  # nats, in the mean
HEAD_ROUNDING = {torch.float32: 1e-5}  # of the largest logit: one product of two matrices
HEAD_ROUNDING_OF_16_BITS = 1e-2
NEVER = (-1,)  # stop ids: no token ends a response


def fitted(
    policy: Policy, renderer: PromptRenderer, args: AZRArgs, roles: Sequence[Role] = ROLES
) -> tuple[Policy, str | None]:
    """The policy with the engine that `args.engine` and `args.decode` ask for, and with auto, where that
    is not the shared one, a line on why. Raises PolicyError where a policy cannot play `roles` with these
    arguments, or no such engine fits its model.

    Costs two responses of full length to each of at most six prompts, scored three times: on a GPU
    about one slice of rollouts, for SmolLM2 28 s of one core.
    """
    prompts = longest_prompts(renderer, args, roles)
    require_prompts(policy, renderer, prompts)
    require_positions(policy, prompts)
    fault, policy = None, replace(policy, decode=args.decodes)
    if policy.decode == "graph":
        require_static(policy)
    if args.engine != "plain":
        fault = shared_fault(policy, prompts, args)
        if fault is None:
            return replace(policy, engine="shared"), None
        if policy.decode == "graph":
            raise PolicyError(
                f"--decode graph: must be eager or auto for --model {policy.name}; {fault}"
            )
        if args.engine == "shared":
            raise PolicyError(
                f"--engine shared: must be plain or auto for --model {policy.name}; {fault}"
            )
    unfit = _tried(_fault, policy, PlainEngine, prompts, args)
    if unfit is not None:
        raise PolicyError(
            f"--model {policy.name}: cannot be sampled and trained by this program; {unfit}"
        )
    return replace(policy, engine="plain"), fault and f"engine plain, since {fault}"


def require_static(policy: Policy) -> None:
    """Raise PolicyError unless a GPU can record how the policy decodes."""
    fault = static_fault(policy.model)
    if fault is not None:
        raise PolicyError(
            f"--decode graph: must be eager or auto for --model {policy.name}; {fault}"
        )


def shared_fault(policy: Policy, prompts: Sequence[Prompt], args: AZRArgs) -> str | None:
    """Why the shared engine does not fit a policy's model, in words; None where it does. A window and a
    cap of logits are looked for by themselves: weights that have not learned to use them yet would hide
    them from the comparison."""
    engine = StaticEngine if policy.decode == "graph" else SharedEngine
    return (
        narrow_window(policy, prompts)
        or _tried(_head_fault, policy, prompts)
        or _tried(_fault, policy, engine, prompts, args)
    )


def _tried(check: Callable[..., str | None], policy: Policy, *arguments) -> str | None:
    """What a check says of a policy, in eval mode; or what an architecture raises, whatever it is, in
    words."""
    try:
        with evaluating(policy.model):
            return check(policy, *arguments)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "allocate memory" in str(error):
            raise
        return f"its architecture does not allow it ({in_short(error)})"


def _fault(
    policy: Policy, engine: type[Engine], prompts: Sequence[Prompt], args: AZRArgs
) -> str | None:
    """Where an engine and the model itself differ, in words; None where they do not."""
    worst = differences(policy, engine, prompts, args)
    exact = all(weight.dtype is torch.float32 for weight in policy.model.parameters())
    most = MOST if exact else MOST_OF_16_BITS
    if all(difference <= most for difference in worst.values()):
        return None
    where, difference = max(worst.items(), key=lambda item: item[1])
    return f"{where} and the model itself differ by {difference:.2g} nats a token"


@torch.no_grad()
def _head_fault(policy: Policy, prompts: Sequence[Prompt]) -> str | None:
    """Whether a model does more to its logits than its output layer does."""
    model = policy.model
    ids = torch.tensor([prompts[0].ids], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    made = model.get_output_embeddings()(hidden).float()
    most = HEAD_ROUNDING.get(model.dtype, HEAD_ROUNDING_OF_16_BITS) * float(logits.abs().max())
    off = float((made - logits).abs().max())
    return None if off <= most else "its logits are more than its output layer's"


@torch.no_grad()
def differences(
    policy: Policy, engine: type[Engine], prompts: Sequence[Prompt], args: AZRArgs
) -> dict[str, float]:
    """How far each thing that an engine does is from the model itself, in nats: for the token that is
    furthest, or in the mean where rounding may change a token by much."""
    rollouts = _sampled(policy, engine, prompts, args)
    found = {
        "sampling": [value for rollout in rollouts for value in rollout.old_logprobs],
        "scoring": _scored(policy, engine, rollouts, args),
    }
    with torch.enable_grad():
        found["the update"] = _scored(policy, engine, rollouts, args)
    wanted = torch.cat([logprobs_alone(policy.model, rollout) for rollout in rollouts])
    measure = torch.mean if _rounds_much(policy.model) else torch.max
    return {
        name: float(measure((torch.tensor(values) - wanted).abs()))
        for name, values in found.items()
    }


def _rounds_much(model) -> bool:
    """Whether rounding can send a token elsewhere: to another expert, or by weights of 16 bits."""
    settings = model.config.get_text_config(decoder=True).to_dict().items()
    routed = any("expert" in key and type(value) is int and value > 1 for key, value in settings)
    return routed or any(weight.dtype is not torch.float32 for weight in model.parameters())


def _sampled(
    policy: Policy, engine: type[Engine], prompts: Sequence[Prompt], args: AZRArgs
) -> list[Rollout]:
    """Responses to prompts, each with all the tokens that it may have, sampled as in training."""
    sampler = engine(policy.model, NEVER, policy.pad_id)
    rollouts, generator = [], torch.Generator().manual_seed(args.seed)
    for length in sorted({prompt.max_tokens for prompt in prompts}):
        asked = [prompt for prompt in prompts if prompt.max_tokens == length] * COPIES
        uniform = torch.rand(len(asked), length, generator=generator).to(policy.model.device)
        responses = sampler.sample([prompt.ids for prompt in asked], uniform, 1.0)
        rollouts += [
            Rollout.of(prompt, response, text="")
            for prompt, response in zip(asked, responses, strict=True)
        ]
    return rollouts


def _scored(
    policy: Policy, engine: type[Engine], rollouts: Sequence[Rollout], args: AZRArgs
) -> list[float]:
    """The log-probabilities of all responses, one after the other, as the update computes them."""
    scorer = engine(policy.model, policy.stop_ids, policy.pad_id)
    found = scorer.logprobs(rollouts, args.microbatch_tokens, temperature=1.0)
    return [value for values in found for value in values]


@torch.no_grad()
def logprobs_alone(model, rollout: Rollout) -> Tensor:
    """Log-probabilities of a response, (T,) float32 on the CPU, by the model itself: one whole sequence,
    no cache, no padding."""
    ids = torch.tensor([rollout.prompt_ids + rollout.response_ids], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0]
    chosen = logits[len(rollout.prompt_ids) - 1 : -1].float().log_softmax(-1)
    return chosen.gather(1, ids[0, len(rollout.prompt_ids) :, None]).squeeze(1).cpu()
