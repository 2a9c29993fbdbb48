"""The arguments of a run: one frozen dataclass is the command line, the config file and the API.

Each field is a flag (`total_steps` is `--total-steps`), with its default, its help and what it may
be. The defaults are those of `tiny`; `CHAT_PRESET` says where a chat model differs. A wrong value is
refused by one sentence that names the flag, the value and what is allowed.
"""

import argparse
import difflib
import json
import math
import re
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

from constants import CUDA_MODEL, DEFAULT_SEED, MAXIMUM_PRIME, MINIMUM_PRIME, PRIMES, TINY_MODEL


class ArgumentError(ValueError):
    """A value that is not allowed; the message is one sentence for the user."""


def _flag(default, help, *, least=None, most=None, above=None, choices=None):
    """A field with what its flag may be: an inclusive range, an open lower end, or a choice."""
    limits = dict(least=least, most=most, above=above, choices=choices)
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class AZRArgs:
    """Everything a run depends on. Raises ArgumentError for a value that is not allowed."""

    # what is run
    model: str = _flag(TINY_MODEL, "tiny, a Hugging Face hub id, or a local folder")
    total_steps: int = _flag(200, "self-play steps", least=0)
    seed: int = _flag(DEFAULT_SEED, "seed of every random stream", least=0, most=2**32 - 1)
    run_dir: str | None = _flag(None, "folder of the run; must be empty or not exist")
    run_name: str | None = _flag(None, "name of the folder under runs/ [date, time, seed]")
    # the problems
    min_prime: int = _flag(5, "smallest p", least=MINIMUM_PRIME, most=MAXIMUM_PRIME)
    max_prime: int = _flag(13, "largest p", least=MINIMUM_PRIME, most=MAXIMUM_PRIME)
    seed_problems: int = _flag(8, "random problems a task in the buffer before step 1", least=1)
    # one step
    batch_size: int = _flag(64, "B, proposals a task", least=1)
    n_attempts: int = _flag(4, "n, attempts at each unique valid proposal", least=1)
    n_references: int = _flag(1, "K, known problems shown in a proposer prompt", least=1)
    train_attempts: bool = _flag(True, "train on all attempts, filled up to B n rows a task")
    refill: str = _flag(
        "unsolved",
        "how the buffer's problems are drawn to fill a batch of answers; unsolved: weighted by how "
        "seldom they are solved",
        choices=("uniform", "unsolved"),
    )
    temperature: float = _flag(1.0, "of sampling and of logprobs", least=0.01, most=100)
    max_proposal_tokens: int = _flag(
        6, "a proposal that has not ended by then is malformed", least=1
    )
    max_answer_tokens: int = _flag(4, "an answer that has not ended by then is malformed", least=1)
    rollout_rows: int = _flag(1024, "rows in the model at a time while sampling", least=1)
    # controls
    proposer: str = _flag(
        "self",
        "trained; frozen: never enters the loss; uniform: the environment draws the problems",
        choices=("self", "uniform", "frozen"),
    )
    reward: str = _flag(
        "learnability",
        "of a valid proposal; constant: 1; format: 1, and 1 for a well-formed answer",
        choices=("learnability", "constant", "format"),
    )
    advantage: str = _flag(
        "task_relative",
        "what rewards are normalised within; grpo: attempts by problem",
        choices=("task_relative", "global", "grpo"),
    )
    # rewards
    invalid_reward: float = _flag(-0.5, "of a well-formed proposal that has no legal completion")
    extreme_reward: float = _flag(0.0, "of a valid proposal solved never or always")
    # the update
    lr: float = _flag(1e-3, "AdamW's learning rate", above=0, most=1)
    lr_warmup: int = _flag(10, "steps over which the learning rate rises linearly to --lr", least=0)
    lr_hold: int = _flag(60, "steps before the learning rate decays", least=0)
    lr_half_life: float = _flag(40.0, "steps in which it halves after that; 0: never", least=0)
    adam_beta2: float = _flag(0.95, "AdamW's second beta", least=0, most=0.9999)
    minibatches: int = _flag(4, "optimizer steps a self-play step", least=1)
    microbatch_tokens: int = _flag(16384, "positions in the model at a time in the update", least=1)
    clip_low: float = _flag(0.2, "ratio clip below 1", least=0, most=1)
    clip_high: float = _flag(0.2, "ratio clip above 1", least=0)
    aggregate: str = _flag("sequence", "what the objective averages", choices=("sequence", "token"))
    entropy_coef: float = _flag(0.1, "weight of the entropy bonus", least=0)
    max_grad_norm: float = _flag(1.0, "gradient norm is clipped to this", above=0)
    # the format-only warm start of tiny
    warm_start_steps: int = _flag(80, "supervised steps on format alone, tiny only", least=0)
    warm_start_lr: float = _flag(3e-3, "learning rate of the warm start", above=0)
    warm_start_batch: int = _flag(128, "texts in a warm start step", least=1)
    # watching
    eval_every: int = _flag(10, "steps between greedy evaluations", least=1)
    eval_problems: int = _flag(512, "evaluation problems a task; all of them where fewer", least=1)
    logged_rollouts: int = _flag(
        6, "transcripts a step in rollouts.jsonl, one a cell first", least=0
    )
    debug_grads: int = _flag(0, "print gradient norms of the first N updates", least=0)
    wandb: bool = _flag(False, "also log to Weights & Biases (offline without a key)")
    quiet: bool = _flag(False, "print nothing but errors")

    def __post_init__(self):
        for item in fields(self):
            self._check(item, getattr(self, item.name))
        if not any(self.min_prime <= q <= self.max_prime for q in PRIMES):
            raise ArgumentError(
                f"--min-prime {self.min_prime} --max-prime {self.max_prime}: there must be a prime "
                f"from --min-prime to --max-prime"
            )
        if self.advantage == "grpo" and not self.train_attempts:
            raise ArgumentError(
                "--advantage grpo --no-train-attempts: must have --train-attempts, or there is no "
                "group of attempts to compare"
            )
        if not self.model.strip():
            raise ArgumentError(f"--model {self.model!r}: must be tiny, a hub id or a local folder")
        if self.run_dir is not None and self.run_name is not None:
            raise ArgumentError(f"--run-name {self.run_name}: give it or --run-dir, not both")
        if self.run_name is not None and (
            set(self.run_name) & set("/\\\0") or self.run_name in ("", ".", "..")
        ):
            raise ArgumentError(f"--run-name {self.run_name!r}: must be a plain folder name")

    def _check(self, item, value):
        limits = item.metadata
        wanted, allowed = _wanted(item), _allowed(item)
        ok = value is None and item.default is None or type(value) is wanted or (
            wanted is float and type(value) is int
        )  # fmt: skip
        ok = ok and (wanted is not float or math.isfinite(value))
        ok = ok and (limits["least"] is None or value >= limits["least"])
        ok = ok and (limits["most"] is None or value <= limits["most"])
        ok = ok and (limits["above"] is None or value > limits["above"])
        ok = ok and (limits["choices"] is None or value in limits["choices"])
        if not ok:
            raise ArgumentError(f"{_name(item)} {value}: must be {allowed}")

    @property
    def warm_starts(self) -> bool:
        """Only a random network needs to be taught the format."""
        return self.model == TINY_MODEL and self.warm_start_steps > 0

    def as_dict(self) -> dict:
        """JSON's types, by field name."""
        return asdict(self)


# Where a policy differs from the defaults above. The paper's values, for one 80 GB GPU.
CHAT_PRESET = dict(
    batch_size=32,
    n_attempts=8,
    n_references=6,
    train_attempts=False,
    refill="uniform",
    max_prime=MAXIMUM_PRIME,
    max_proposal_tokens=512,
    max_answer_tokens=512,
    rollout_rows=384,
    lr=1e-6,
    lr_warmup=0,
    lr_half_life=0.0,
    adam_beta2=0.999,
    minibatches=3,
    entropy_coef=0.001,
    warm_start_steps=0,
    eval_problems=128,
)


def preset(model: str) -> dict:
    """The fields in which a policy differs from the defaults: none for `tiny` and for a folder that
    holds one, the chat model's for any other."""
    return {} if model == TINY_MODEL or _speaks_compact(model) else CHAT_PRESET


def _speaks_compact(model: str) -> bool:
    """Whether a local folder says that it holds a policy of the compact prompt language."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("prompt_set") == "compact"


def _name(item) -> str:
    return "--" + item.name.replace("_", "-")


def _wanted(item) -> type:
    """int, float, str or bool; of `str | None`, str."""
    return next((t for t in typing.get_args(item.type) if t is not type(None)), item.type)


def _allowed(item) -> str:
    limits, noun = (
        item.metadata,
        {int: "an integer", float: "a number", bool: "true or false", str: "text"},
    )
    if limits["choices"]:
        return " or ".join(limits["choices"])
    if limits["above"] is not None and limits["most"] is not None:
        return f"{noun[_wanted(item)]} above {limits['above']} and at most {limits['most']}"
    if limits["above"] is not None:
        return f"{noun[_wanted(item)]} above {limits['above']}"
    if limits["most"] is not None:
        return f"{noun[_wanted(item)]} from {limits['least']} to {limits['most']}"
    if limits["least"] is not None:
        return f"{noun[_wanted(item)]} of at least {limits['least']}"
    return noun[_wanted(item)]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise ArgumentError(message.removeprefix("argument "))


def _convert(item, text):
    """The text of a flag as its field's type."""
    try:
        return text if isinstance(text, bool) else _wanted(item)(text)
    except ValueError:
        raise ArgumentError(f"{_name(item)} {text}: must be {_allowed(item)}") from None


def _build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        description="Absolute Zero self-play on x * y ≡ 1 (mod p).",
        epilog="Defaults in brackets are those of the tiny policy; a chat model's are in CHAT_PRESET.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for item in fields(AZRArgs):
        if item.name not in names:
            continue
        shown = "" if item.default in (None, MISSING) else f" [{item.default}]"
        text = item.metadata["help"].replace("%", "%%") + shown
        if _wanted(item) is bool:
            parser.add_argument(_name(item), action=argparse.BooleanOptionalAction, help=text)
        else:
            allowed = (
                _allowed(item).upper()
                if item.metadata["choices"]
                else item.name.split("_")[-1].upper()
            )
            parser.add_argument(_name(item), metavar=allowed, help=text)
    return parser


def _join_negatives(argv: Sequence[str]) -> list[str]:
    """`--lr -1e-3` as `--lr=-1e-3`: argparse would take the exponent form for a flag."""
    joined: list[str] = []
    for word in argv:
        if (
            joined
            and joined[-1].startswith("--")
            and "=" not in joined[-1]
            and re.match(r"-\.?[0-9]", word)
        ):
            joined[-1] += "=" + word
        else:
            joined.append(word)
    return joined


def parse_args(
    argv: Sequence[str], *, cuda: bool = False, only: Sequence[str] | None = None
) -> AZRArgs:
    """Arguments of a command line. Raises ArgumentError, or SystemExit(0) for --help.

    cuda: whether a GPU is present, which decides the default model and nothing else. only: the
    fields a command has as flags, where it does not have all.
    """
    names = [item.name for item in fields(AZRArgs)] if only is None else only
    given, unknown = _build_parser(names).parse_known_args(_join_negatives(argv))
    if unknown:
        flags = ["--" + name.replace("_", "-") for name in names]
        near = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
        raise ArgumentError(f"{unknown[0]}: is not a flag of this program; {hint}")
    by_name = {item.name: item for item in fields(AZRArgs)}
    values = {name: _convert(by_name[name], text) for name, text in vars(given).items()}
    values.setdefault("model", CUDA_MODEL if cuda else TINY_MODEL)
    return AZRArgs(**{**preset(values["model"]), **values})
