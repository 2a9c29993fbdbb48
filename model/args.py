"""The arguments of a run: one frozen dataclass is the command line, the config file and the API.

Each field is a flag (`total_steps` is `--total-steps`), with its default, its help and what it may
be. The defaults are those of `tiny`; `model/presets.py` says where other models differ. A wrong value
is refused by one sentence that names the flag, the value and what is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date

from constants import (
    CARDS,
    CUDA_MODEL,
    DEFAULT_SEED,
    MAXIMUM_PRIME,
    MINIMUM_PRIME,
    PLANNED_CARD,
    PRIMES,
    TINY_MODEL,
)
from model.flags import ArgumentError, check, flag, flag_name, parse_values, shown
from model.presets import preset, same_model

NEWEST = "newest"  # --resume without a path


@dataclass(frozen=True)
class AZRArgs:
    """Everything a run depends on. Raises ArgumentError for a value that is not allowed."""

    # what is run
    model: str = flag(TINY_MODEL, "tiny, smollm2, a Hugging Face hub id, or a local folder")
    total_steps: int = flag(200, "self-play steps", least=0, changeable=True)
    seed: int = flag(DEFAULT_SEED, "seed of every random stream", least=0, most=2**32 - 1)
    run_dir: str | None = flag(
        None, "folder of the run; must be empty or not exist, but to --resume", changeable=True
    )
    run_name: str | None = flag(
        None, "name of the folder under runs/ [date, time, seed]", changeable=True
    )
    resume: str | None = flag(
        None,
        "go on from this checkpoint, or from the newest complete one of the run directory",
        bare=NEWEST,
        changeable=True,
    )
    checkpoint_every: int = flag(10, "steps between checkpoints", least=1, changeable=True)
    keep_checkpoints: int = flag(
        2, "newest checkpoints that are kept beside the best", least=1, changeable=True
    )
    card: str | None = flag(
        None,
        "GPU whose preset is used, and that --plan plans for [this machine's; a100-80gb for --plan]",
        choices=tuple(CARDS),
        changeable=True,
    )
    plan: bool = flag(False, "print what the run needs of its GPU, loading no weights, and stop")
    # the problems
    min_prime: int = flag(5, "smallest p", least=MINIMUM_PRIME, most=MAXIMUM_PRIME)
    max_prime: int = flag(31, "largest p", least=MINIMUM_PRIME, most=MAXIMUM_PRIME)
    seed_problems: int = flag(8, "random problems a task in the buffer before step 1", least=1)
    # one step
    batch_size: int = flag(128, "B, proposals a task", least=1)
    n_attempts: int = flag(8, "n, attempts at each unique valid proposal", least=1)
    share_triples: bool = flag(
        True, "a valid (x, y, p) becomes a known problem of every task, not only of its own"
    )
    n_references: int = flag(1, "K, known problems shown in a proposer prompt", least=1)
    train_attempts: bool = flag(True, "train on all attempts, filled up to B n rows a task")
    refill: str = flag(
        "unsolved",
        "how the buffer's problems are drawn to fill a batch of answers; unsolved: weighted by how "
        "seldom they are solved",
        choices=("uniform", "unsolved"),
    )
    engine: str = flag(
        "auto",
        "what samples and scores; shared: what sequences have in common is computed once; plain: one row "
        "for each response, for any model; auto: shared where a trial shows that it equals the model itself",
        choices=("auto", "plain", "shared"),
    )
    temperature: float = flag(1.0, "of sampling and of logprobs", least=0.01, most=100)
    max_proposal_tokens: int = flag(
        6, "a proposal that has not ended by then is malformed", least=1
    )
    max_answer_tokens: int = flag(4, "an answer that has not ended by then is malformed", least=1)
    rollout_rows: int = flag(
        1024, "rows in the model at a time while sampling", least=1, changeable=True
    )
    prompt_date: str | None = flag(
        None, "what the clock of a chat template shows, YYYY-MM-DD [the day the run starts]"
    )
    # controls
    proposer: str = flag(
        "self",
        "self: the policy in training; untrained: the same, but its proposals never enter the loss; "
        "frozen: a snapshot from before step 1; uniform: the environment draws B problems a task; yoked: "
        "as many distinct ones as --yoked-to proposed; decoy: as self, but the solver is taught as many "
        "uniform draws; none: the buffer's problems alone",
        choices=("self", "untrained", "frozen", "uniform", "yoked", "decoy", "none"),
    )
    yoked_to: str | None = flag(None, "run directory that --proposer yoked follows, step by step")
    reward: str = flag(
        "learnability",
        "of a valid proposal; constant: 1; format: 1, and 1 for a well-formed answer",
        choices=("learnability", "constant", "format"),
    )
    advantage: str = flag(
        "task_relative",
        "what rewards are normalised within; grpo: attempts by problem",
        choices=("task_relative", "global", "grpo"),
    )
    # rewards
    invalid_reward: float = flag(
        -0.5, "of a well-formed proposal that has no legal completion", least=-100, most=100
    )
    extreme_reward: float = flag(
        0.0, "of a valid proposal solved never or always", least=-100, most=100
    )
    crowding_cost: float = flag(
        1.0,
        "taken from a valid proposal's advantage, times the share of its cell that is the same problem",
        least=0,
        most=100,
    )
    # the update
    lora_rank: int = flag(
        0, "train low-rank adapters of this rank beside frozen weights; 0: all weights", least=0
    )
    lr: float = flag(1.25e-3, "AdamW's learning rate", above=0, most=1)
    lr_warmup: int = flag(10, "steps over which the learning rate rises linearly to --lr", least=0)
    lr_hold: int = flag(130, "steps before the learning rate decays", least=0)
    lr_half_life: float = flag(25.0, "steps in which it halves after that; 0: never", least=0)
    adam_beta2: float = flag(0.95, "AdamW's second beta", least=0, most=0.9999)
    minibatches: int = flag(8, "optimizer steps a self-play step", least=1)
    microbatch_tokens: int = flag(
        16384, "positions in the model at a time in the update", least=1, changeable=True
    )
    clip_low: float = flag(0.2, "ratio clip below 1", least=0, most=1)
    clip_high: float = flag(0.2, "ratio clip above 1", least=0, most=1000)
    aggregate: str = flag("sequence", "what the objective averages", choices=("sequence", "token"))
    proposer_weight: float = flag(3.0, "what a proposal counts beside an answer", above=0)
    entropy_coef: float = flag(0.1, "weight of the entropy bonus", least=0)
    entropy_floor: float = flag(
        0.0,
        "the bonus is paid for the entropy among tokens of at least this probability; 0: among all",
        least=0,
        most=1,
    )
    max_grad_norm: float = flag(1.0, "gradient norm is clipped to this", above=0, most=10**12)
    # the format-only warm start of tiny
    warm_start_steps: int = flag(80, "supervised steps on format alone, tiny only", least=0)
    warm_start_lr: float = flag(3e-3, "learning rate of the warm start", above=0, most=1)
    warm_start_batch: int = flag(128, "texts in a warm start step", least=1)
    # watching
    eval_every: int = flag(10, "steps between greedy evaluations", least=1)
    eval_problems: int = flag(512, "evaluation problems a task; all of them where fewer", least=1)
    eval_uniform: bool = flag(True, "evaluations measure what uniform drawing would earn")
    logged_rollouts: int = flag(
        6, "transcripts a step in rollouts.jsonl, one a cell first", least=0
    )
    debug_grads: int = flag(
        0,
        "print the gradient by layer and by (role, task) cell for the first N updates of this process",
        least=0,
        changeable=True,
    )
    wandb: bool = flag(
        False, "also log to Weights & Biases (offline without a key)", changeable=True
    )
    quiet: bool = flag(False, "print nothing but errors", changeable=True)

    def __post_init__(self):
        for item in fields(self):
            check(item, getattr(self, item.name))
        if not any(self.min_prime <= q <= self.max_prime for q in PRIMES):
            raise ArgumentError(
                f"--min-prime {self.min_prime} --max-prime {self.max_prime}: there must be a prime "
                f"from --min-prime to --max-prime"
            )
        if (self.proposer == "yoked") != (self.yoked_to is not None):
            raise ArgumentError(
                f"--proposer {self.proposer} --yoked-to {self.yoked_to}: must go together, --yoked-to "
                f"RUN_DIR with --proposer yoked alone"
            )
        if self.advantage == "grpo" and not self.train_attempts:
            raise ArgumentError(
                "--advantage grpo --no-train-attempts: must have --train-attempts, or there is no "
                "group of attempts to compare"
            )
        if not self.model.strip():
            raise ArgumentError(f"--model {self.model!r}: must be tiny, a hub id or a local folder")
        if self.prompt_date is not None and not _is_date(self.prompt_date):
            raise ArgumentError(
                f"--prompt-date {shown(self.prompt_date)}: must be a date as YYYY-MM-DD"
            )
        if self.run_dir is not None and self.run_name is not None:
            raise ArgumentError(f"--run-name {self.run_name}: give it or --run-dir, not both")
        if self.resume == "":
            raise ArgumentError(
                "--resume '': must be the path of a checkpoint or a run, or nothing"
            )
        if self.run_name is not None and (
            set(self.run_name) & set("/\\\0") or self.run_name in ("", ".", "..")
        ):
            raise ArgumentError(f"--run-name {self.run_name!r}: must be a plain folder name")

    @property
    def warm_starts(self) -> bool:
        """Only a random network needs to be taught the format."""
        return self.model == TINY_MODEL and self.warm_start_steps > 0

    @property
    def reward_settings(self) -> dict:
        """What `compute_r_total` is told beside role, verdict and solve rate."""
        return dict(
            invalid_reward=self.invalid_reward,
            extreme_reward=self.extreme_reward,
            scheme=self.reward,
        )

    def as_dict(self) -> dict:
        """JSON's types, by field name."""
        return asdict(self)

    def of_the_run(self) -> dict:
        """`as_dict`, without how this process came to go on with the run."""
        return {**asdict(self), "resume": None}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text  # other forms of ISO 8601 are not one
    except ValueError:
        return False


def dated(args: AZRArgs) -> AZRArgs:
    """The arguments of a run that starts today, or of one that started and kept its date."""
    return replace(args, prompt_date=args.prompt_date or date.today().isoformat())


CHANGEABLE = {item.name for item in fields(AZRArgs) if item.metadata["changeable"]}  # on --resume

HELP = dict(
    description="Absolute Zero self-play on x * y ≡ 1 (mod p).",
    epilog="Defaults in brackets are those of the tiny policy; other models' are in model/presets.py.",
)


def parse_args(
    argv: Sequence[str], *, gpu_memory: float | None = None, only: Sequence[str] | None = None
) -> AZRArgs:
    """Arguments of a command line. Raises ArgumentError, or SystemExit(0) for --help.

    gpu_memory: GiB of this machine's GPU, None where there is none; decides the default model and
    the preset of a chat model, as the card of --card or --plan does in its place. only: the fields a
    command has as flags, where it does not have all.
    """
    chosen = [item for item in fields(AZRArgs) if only is None or item.name in only]
    values = parse_values(argv, chosen, **HELP)
    card = values.get("card", PLANNED_CARD if values.get("plan") else None)
    if card in CARDS:
        gpu_memory = CARDS[card].memory
    values.setdefault("model", TINY_MODEL if gpu_memory is None else CUDA_MODEL)
    return AZRArgs(**{**preset(values["model"], gpu_memory), **values})


def resumed_args(argv: Sequence[str], saved: Mapping, run_dir: str, steps: int) -> AZRArgs:
    """The arguments `saved` by the run in `run_dir`, which has done `steps` steps, with what a command
    line changes of them. Raises ArgumentError for a flag that would make it another run."""
    given = parse_values(argv, fields(AZRArgs), **HELP)
    odd = {item.name for item in fields(AZRArgs)} ^ set(saved)
    if odd:
        raise ArgumentError(
            f"--resume: {run_dir} is a run of another version of this program; they differ in "
            f"{', '.join(sorted(odd))}"
        )
    if "model" in given and same_model(given["model"], saved["model"]):
        del given["model"]  # by another path
    for item in fields(AZRArgs):
        name, was = item.name, saved[item.name]
        if given.get(name, was) != was and name not in CHANGEABLE:
            raise ArgumentError(
                f"{flag_name(name)} {shown(given[name])}: must be {shown(was)}, as in the run that goes on"
            )
    place = dict(run_dir=run_dir, run_name=None, resume=given["resume"])
    args = AZRArgs(**{**saved, **given, **place})
    if args.total_steps < steps:
        raise ArgumentError(
            f"--total-steps {args.total_steps}: must be at least {steps}, the steps that the run has "
            f"done"
        )
    return args
