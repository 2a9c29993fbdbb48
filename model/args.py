"""The arguments of a run: one frozen dataclass is the command line, the config file and the API.

Each field is a flag (`total_steps` is `--total-steps`), with its default, its help and what it may
be. The defaults are those of `tiny`; `model/presets.py` says where other models differ. A wrong value
is refused by one sentence that names the flag, the value and what is allowed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from typing import Any

from compute.reward import REWARD_SCHEMES
from constants import (
    AUTO,
    CARDS,
    CUDA_MODEL,
    DEFAULT_ATTEMPTS,
    DEFAULT_MAX_PRIME,
    DEFAULT_SEED,
    DEVICES,
    EMBEDDED_MODELS,
    MAXIMUM_PRIME,
    MINIMUM_PRIME,
    PLANNED_CARD,
    PRIMES,
    TINY_MODEL,
)
from custom_types import TASKS
from model.flags import ArgumentError, Flags, flag, parse_values, shown
from model.presets import language_by_name, preset
from prime_inversion import all_problems, evaluated_problems

NEWEST = "newest"  # --resume without a path
DEVICE: dict[str, Any] = dict(  # the flag of every command that runs a model
    default=AUTO,
    help="where the model runs. auto: a GPU (cuda) if torch finds one, but cpu for tiny and reasoner; mps, "
    "an Apple GPU, is not tested",
    choices=DEVICES,
)
TEMPERATURES: dict[str, Any] = dict(least=0.01, most=100)  # that float32 can divide logits by
FOLLOWERS = "yoked", "replayed"  # the proposers of a run that follows another


@dataclass(frozen=True)
class AZRArgs(Flags):
    """Everything that a run depends on. Raises ArgumentError for a value that is not allowed."""

    # what is run
    model: str = flag(
        TINY_MODEL, "tiny, reasoner, smollm2, a Hugging Face hub id, or a local folder"
    )
    total_steps: int = flag(200, "self-play steps", least=0, changeable=True)
    seed: int = flag(DEFAULT_SEED, "seed of every random stream", least=0, most=2**32 - 1)
    run_dir: str | None = flag(
        None,
        "folder of the run, which must be empty or not exist unless --resume is given",
        changeable=True,
    )
    run_name: str | None = flag(
        None, "name of the folder under runs/ [date, time, seed]", changeable=True
    )
    resume: str | None = flag(
        None,
        "continue from this checkpoint or run; without a value, from the newest complete checkpoint of "
        "the run directory",
        bare=NEWEST,
        changeable=True,
    )
    checkpoint_every: int = flag(10, "steps between checkpoints", least=1, changeable=True)
    keep_checkpoints: int = flag(
        2, "newest checkpoints that are kept beside the best", least=1, changeable=True
    )
    card: str | None = flag(
        None,
        "GPU whose preset is used and that --plan plans for [this machine's; a100-80gb for --plan]",
        choices=tuple(CARDS),
        changeable=True,
    )
    plan: bool = flag(
        False,
        "print what the run needs of a GPU, whatever --device is, loading no weights, and stop",
    )
    trace: bool = flag(
        False,
        "with --plan: run a step of the model at full shape without numbers too, and print the memory it "
        "takes; a minute for 3 billion parameters",
    )
    processes: int = flag(
        1,
        "with --plan: how many processes work together, each with a GPU; the plan is of one of them",
        least=1,
        most=4096,
    )
    # the problems
    min_prime: int = flag(5, "smallest p", least=MINIMUM_PRIME, most=MAXIMUM_PRIME)
    max_prime: int = flag(
        DEFAULT_MAX_PRIME,
        "largest p; auto: the largest for which at least --auto-share of the problems are solved sometimes "
        "and not always, as attempts before step 1 show",
        least=MINIMUM_PRIME,
        most=MAXIMUM_PRIME,
        words=(AUTO,),
    )
    auto_share: float = flag(
        0.2, "share of the problems that --max-prime auto asks for", above=0, most=1
    )
    seed_problems: int = flag(
        8, "random problems of each task in the buffer before step 1", least=1
    )
    # one step
    batch_size: int = flag(128, "B, proposals of each task in a step", least=1)
    n_attempts: int = flag(DEFAULT_ATTEMPTS, "n, attempts at each unique valid proposal", least=1)
    share_triples: bool = flag(
        True, "a valid (x, y, p) becomes a known problem of every task, not only of its own"
    )
    held_out: float = flag(
        0.0,
        "share of the problems, whole primes and whole orbits, that no answer is ever trained on; if it is "
        "not 0, accuracy is measured on them alone",
        least=0,
        most=0.9,
    )
    n_references: int = flag(1, "K, known problems shown in a proposer's prompt", least=1)
    train_attempts: bool = flag(
        True,
        "train on all attempts, filled up from the buffer to B times n answers of each task; off: train "
        "on B other answers of each task",
    )
    refill: str = flag(
        "unsolved",
        "how problems are drawn from the buffer to fill a batch of answers; unsolved: the more seldom a "
        "problem is solved, the more often it is drawn; none: the answers are those to a step's own problems",
        choices=("uniform", "unsolved", "none"),
    )
    refill_attempts: int = flag(
        1,
        "attempts at each problem that is drawn to fill a batch up: more of them are fewer problems, whose "
        "prompts are read once",
        least=1,
    )
    engine: str = flag(
        "auto",
        "what samples and scores; shared: what sequences have in common is computed once; plain: one row "
        "for each response, for any model; auto: shared where a trial shows that it equals the model itself",
        choices=("auto", "plain", "shared"),
    )
    decode: str = flag(
        "auto",
        "how the shared engine samples once no two rows are the same; eager: through the model itself; graph: "
        "a GPU records a token's work and repeats it, for Qwen2 and Llama models without adapters; auto: "
        "eager, as a GPU has run the other for some minutes alone",
        choices=("auto", "eager", "graph"),
        changeable=True,
    )
    device: str = flag(**DEVICE, changeable=True)
    precision: str = flag(
        "auto",
        "factors of a model's matrix products; its weights, sums and logits are float32. auto: bfloat16 on a "
        "GPU, and on a CPU that has instructions for it, but float32 for tiny and reasoner",
        choices=("auto", "float32", "bfloat16"),
    )
    temperature: float = flag(
        1.0, "temperature of sampling, and of the probabilities in the update", **TEMPERATURES
    )
    max_proposal_tokens: int = flag(
        6, "a proposal that has not ended after so many tokens is malformed", least=1
    )
    max_answer_tokens: int = flag(
        4, "an answer that has not ended after so many tokens is malformed", least=1
    )
    rollout_rows: int = flag(
        1024, "rows in the model at a time while sampling", least=1, changeable=True
    )
    prompt_date: str | None = flag(
        None, "date that a chat template shows, YYYY-MM-DD [the day the run starts]"
    )
    # controls
    proposer: str = flag(
        "self",
        "who proposes. self: the policy in training; untrained: the same, but its proposals never enter "
        "the loss; frozen: a snapshot from before step 1; uniform: the environment draws B problems of "
        "each task; log_uniform: it draws a prime p with weight 1/p, then one of its problems; window: it "
        "draws among the smallest primes, one more every 3 steps; adaptive: it draws by r(1 - r), where r is "
        "how often a problem was solved last; yoked: it draws as many distinct ones as --yoked-to proposed; "
        "replayed: it takes the very problems that --yoked-to proposed; decoy: as self, but the solver is "
        "taught as many uniform draws; none: all answers are to problems of the buffer",
        choices=(
            "self", "untrained", "frozen", "uniform", "log_uniform", "window", "adaptive", "yoked",
            "replayed", "decoy", "none",
        ),
    )  # fmt: skip
    yoked_to: str | None = flag(
        None, "run directory that --proposer yoked or replayed follows, step by step"
    )
    reward: str = flag(
        "learnability",
        "what is paid. learnability: the share of attempts at a valid proposal that failed; variance: that "
        "share times the share that did not; alignment: how far the gradient of attempts at a valid "
        "proposal points where the weights moved in the last step; constant: 1 for a valid proposal; "
        "format: 1 for a valid proposal and for a well-formed answer",
        choices=REWARD_SCHEMES,
    )
    advantage: str = flag(
        "task_relative",
        "what a reward is compared with. task_relative: others of its role and task; global: all others; "
        "grpo: as task_relative, but an attempt with others at its problem",
        choices=("task_relative", "global", "grpo"),
    )
    # rewards
    invalid_reward: float = flag(
        -0.5, "reward of a well-formed proposal that has no legal completion", least=-100, most=100
    )
    extreme_reward: float = flag(
        0.0, "reward of a valid proposal that is solved never or always", least=-100, most=100
    )
    crowding_cost: float = flag(
        1.0,
        "taken from a valid proposal's advantage, times the share of its cell that is the same problem",
        least=0,
        most=100,
    )
    # the update
    lora_rank: int = flag(
        0,
        "train low-rank adapters of this rank beside frozen weights; 0: train all weights",
        least=0,
        most=1024,
    )
    lr: float = flag(1.25e-3, "AdamW's learning rate", above=0, most=1)
    lr_warmup: int = flag(10, "steps over which the learning rate rises linearly to --lr", least=0)
    lr_hold: int = flag(130, "steps before the learning rate decays", least=0)
    lr_half_life: float = flag(
        25.0, "steps in which the learning rate halves after that; 0: it never decays", least=0
    )
    adam_beta2: float = flag(0.95, "AdamW's second beta", least=0, most=0.9999)
    minibatches: int = flag(8, "optimizer steps in a self-play step", least=1)
    microbatch_tokens: int = flag(
        16384, "positions in the model at a time in the update", least=1, changeable=True
    )
    clip_low: float = flag(0.2, "how far below 1 the clip lets a ratio count", least=0, most=1)
    clip_high: float = flag(0.2, "how far above 1 the clip lets a ratio count", least=0, most=1000)
    aggregate: str = flag(
        "sequence", "what counts equally in the objective", choices=("sequence", "token")
    )
    proposer_weight: float = flag(
        0.3, "weight of a proposal in the loss, where an answer has 1", above=0
    )
    entropy_coef: float = flag(0.1, "weight of the entropy bonus", least=0)
    entropy_floor: float = flag(
        0.0,
        "the bonus is paid for the entropy among tokens of at least this probability; 0: among all",
        least=0,
        most=1,
    )
    max_grad_norm: float = flag(1.0, "gradient norm is clipped to this", above=0, most=10**12)
    # the format-only warm start of tiny
    warm_start_steps: int = flag(
        80,
        "supervised steps before step 1, for tiny on format alone, for reasoner on arithmetic too",
        least=0,
    )
    warm_start_lr: float = flag(3e-3, "learning rate of the warm start", above=0, most=1)
    warm_start_batch: int = flag(128, "texts in a step of the warm start", least=1)
    # watching
    eval_every: int = flag(10, "steps between greedy evaluations", least=1)
    eval_problems: int = flag(
        512, "evaluation problems of each task; all of them where there are fewer", least=1
    )
    eval_uniform: bool = flag(
        True, "evaluations also measure what a proposer that draws uniformly would earn"
    )
    logged_rollouts: int = flag(
        6, "transcripts of each step in rollouts.jsonl, first one of each role and task", least=0
    )
    shard: bool = flag(
        False,
        "in several processes, keep a part of the weights, their gradient and their moments in each, instead "
        "of all of them",
        changeable=True,
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
    tensorboard: bool = flag(
        False, "also write what TensorBoard shows, into the run directory", changeable=True
    )
    trackio: bool = flag(False, "also log to trackio", changeable=True)
    quiet: bool = flag(False, "print nothing but errors", changeable=True)

    def __post_init__(self):
        super().__post_init__()
        if not self.undecided and not any(self.min_prime <= q <= self.max_prime for q in PRIMES):
            raise ArgumentError(
                f"--min-prime {self.min_prime} --max-prime {self.max_prime}: there must be a prime "
                f"from --min-prime to --max-prime"
            )
        if self.trace and not self.plan:
            raise ArgumentError("--trace: must have --plan, beside whose numbers it prints its own")
        if self.processes > 1 and not self.plan:
            raise ArgumentError(
                f"--processes {self.processes}: must have --plan; of a run, torchrun says how many there are"
            )
        if self.plan and self.shard and self.processes == 1:
            raise ArgumentError("--plan --shard: must have --processes with at least 2")
        if self.trace and self.processes > 1:
            raise ArgumentError(
                f"--trace --processes {self.processes}: must have 1, as one process is what it runs"
            )
        if self.held_out and not self.undecided:
            self._require_both_kinds()
        if self.proposer in FOLLOWERS and self.yoked_to is None:
            raise ArgumentError(
                f"--proposer {self.proposer}: must have --yoked-to RUN_DIR, the run it follows"
            )
        if self.proposer not in FOLLOWERS and self.yoked_to is not None:
            raise ArgumentError(
                f"--yoked-to {self.yoked_to}: must have --proposer {' or '.join(FOLLOWERS)}, not "
                f"{self.proposer}"
            )
        if self.proposer == self.refill == "none":
            raise ArgumentError(
                "--proposer none --refill none: must have one of them, or nothing is ever trained on"
            )
        if self.device == "mps" and self.precision == "bfloat16":
            raise ArgumentError(
                "--device mps --precision bfloat16: must have --precision auto or float32"
            )
        if self.decode == "graph" and self.engine == "plain":
            raise ArgumentError(
                "--decode graph --engine plain: must have --engine shared or auto, whose decoding it is"
            )
        if self.advantage == "grpo" and not self.train_attempts:
            raise ArgumentError(
                "--advantage grpo --no-train-attempts: must have --train-attempts, or there is no "
                "group of attempts to compare"
            )
        if self.reward == "alignment" and self.n_attempts == 1:
            raise ArgumentError(
                "--reward alignment --n-attempts 1: must have at least 2 attempts at a problem, or none "
                "earns more than another"
            )
        if self.reward == "alignment" and self.eval_uniform:
            raise ArgumentError(
                "--reward alignment --eval-uniform: must have --no-eval-uniform, as evaluations know no "
                "movement of the weights"
            )
        if self.shard:
            self._require_shardable()
        if not self.model.strip():
            raise ArgumentError(
                f"--model {self.model!r}: must be tiny, reasoner, smollm2, a hub id or a local folder"
            )
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

    def _require_shardable(self) -> None:
        """Raise ArgumentError for what wants all weights in each process."""
        wants_all = {
            f"--lora-rank {self.lora_rank}": self.lora_rank > 0,
            "--proposer frozen": self.proposer == "frozen",
            "--reward alignment": self.reward == "alignment",
            f"--debug-grads {self.debug_grads}": self.debug_grads > 0,
        }
        for other, is_given in wants_all.items():
            if is_given:
                raise ArgumentError(
                    f"--shard {other}: must have one of them, as the other wants all weights in each process"
                )

    def _require_both_kinds(self) -> None:
        """Raise ArgumentError unless there are problems of each task to train on and to measure."""
        span = self.min_prime, self.max_prime
        for task in TASKS:
            size = len(all_problems(task, *span))
            held_out = len(evaluated_problems(task, *span, self.held_out))
            if held_out in (0, size):
                raise ArgumentError(
                    f"--held-out {self.held_out} --min-prime {span[0]} --max-prime {span[1]}: must hold "
                    f"out some problems of each task and leave some; of {task} it holds out {held_out} "
                    f"of {size}"
                )

    @property
    def warm_starts(self) -> bool:
        """Only a random network needs to be taught the format."""
        return self.model in EMBEDDED_MODELS and self.warm_start_steps > 0

    @property
    def decodes(self) -> str:
        """What --decode auto means, or what is given."""
        return "eager" if self.decode == AUTO else self.decode

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

    def as_saved(self) -> dict:
        """`as_dict` as config.json and checkpoints keep it: without how this process resumed the run."""
        return {**asdict(self), "resume": None}


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text  # other forms of ISO 8601 are not one
    except ValueError:
        return False


def with_prompt_date(args: AZRArgs) -> AZRArgs:
    """The arguments of a run that starts today; those of a run that has its date already, unchanged."""
    return replace(args, prompt_date=args.prompt_date or date.today().isoformat())


# What may change when a run is resumed.
CHANGEABLE = {item.name for item in fields(AZRArgs) if item.metadata["changeable"]}


def given_values(argv: Sequence[str]) -> dict:
    """What a command line gives, by field name. Raises ArgumentError, or SystemExit(0) for --help."""
    return parse_values(
        argv,
        fields(AZRArgs),
        about="Absolute Zero self-play on x * y ≡ 1 (mod p).",
        epilog="Defaults in brackets are those of the tiny policy; other models' are in model/presets.py.",
    )


def parse_args(
    argv: Sequence[str],
    *,
    gpu_memory: float | None = None,
    language_of: Callable[[str], str] = language_by_name,
) -> AZRArgs:
    """The arguments of a command line. Raises ArgumentError, or SystemExit(0) for --help.

    gpu_memory: GiB of this machine's GPU, None where there is none; decides the default model and
    the preset of a chat model, as the card of --card or --plan does in its place, and as a --device that
    is no such GPU keeps it from doing. language_of: the
    prompt language of a model, which decides its preset; `model.policy.language.language` looks into
    local folders, and the default knows names alone.
    """
    values = given_values(argv)
    if values.get("device", AUTO) not in (AUTO, "cuda"):
        gpu_memory = None
    card = values.get("card", PLANNED_CARD if values.get("plan") else None)
    if card in CARDS:
        gpu_memory = CARDS[card].memory
    values.setdefault("model", TINY_MODEL if gpu_memory is None else CUDA_MODEL)
    return AZRArgs(**{**preset(language_of(values["model"]), gpu_memory), **values})
