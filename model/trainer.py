"""`AZRTrainer`: one self-play step of Absolute Zero. Wires the rooms together and owns no formula.

references -> proposals -> verdicts -> problems -> answers -> verdicts -> rewards    rollout_phase
rewards -> advantages -> examples -> updates                                         learning_phase
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil

import torch
from accelerate import Accelerator

from buffer.base_buff import REFILLS, ProblemBuffer, ReplayBuffer
from compute.advantages import attempt_groups, compute_advantages, crowding_cost
from compute.metrics import round_metrics, time_metrics, token_count
from compute.reward import compute_r_total, compute_solve_rates
from compute.schedule import learning_rate
from custom_types import (
    TASKS,
    Judged,
    Learned,
    Policy,
    Problem,
    Prompt,
    Role,
    Rollout,
    Round,
    Scored,
    Step,
    Verdict,
)
from model.args import AZRArgs
from model.inference import rollout
from model.learner import Learner
from model.measures import MEASURES, SolveRates
from model.policy.modes import layers_of
from model.proposers.protocol import Followed
from model.proposers.table import PROPOSERS
from prime_inversion import is_held_out, trained_problems
from utils.random_states import seeded_generator
from utils.string_formatting import PromptRenderer
from utils.validate_by_executing import judge_rollouts
from utils.weights import Replicated, Sharded


class AZRTrainer:
    """Trains one policy as proposer and solver.

    policy: trained in place. renderer: of its language and the run's primes. accelerator: where it
    runs and in which precision. learner: by default one that climbs the paper's objective. followed:
    the problems that the run `--yoked-to` proposed, by step.
    """

    def __init__(
        self,
        policy: Policy,
        renderer: PromptRenderer,
        args: AZRArgs,
        accelerator: Accelerator,
        *,
        learner: Learner | None = None,
        followed: Followed | None = None,
    ):
        self.policy, self.renderer = policy, renderer
        self.args, self.accelerator = args, accelerator
        policy.model.to(accelerator.device)
        self.weights = _weights(policy, args, accelerator)
        self.learner = learner or Learner(policy, args, accelerator, weights=self.weights)
        self.problems = ProblemBuffer(args.seed)
        span = args.min_prime, args.max_prime, args.held_out
        space = [problem for task in TASKS for problem in trained_problems(task, *span)]
        self.problems.seed(space, args.seed_problems)
        self.proposer = PROPOSERS[args.proposer](policy, args, followed or {})
        self.measure = MEASURES.get(args.reward, SolveRates)(self.learner)
        self.sampling_rng = seeded_generator(f"{args.seed}/sampling")
        self.steps = self.num_tokens = 0

    def step(self) -> Step:
        """One self-play step. Raises NonFiniteError."""
        self.steps += 1
        started = time.perf_counter()
        played = self.rollout_phase()
        rolled_out = time.perf_counter()
        learned = self.learning_phase(played)
        ended = time.perf_counter()

        self.num_tokens += token_count(played.completions)
        metrics = {
            "step": self.steps,
            "num_tokens": self.num_tokens,
            **round_metrics(played, self.args.min_prime, self.args.max_prime, self.args.held_out),
            **{f"buffer/{task}": len(self.problems.problems(task)) for task in TASKS},
            **learned.metrics,
            **time_metrics(played.completions, rolled_out - started, ended - rolled_out),
        }
        return Step(played, learned, metrics)

    # ---------------------------------------------------------------- rollout phase

    def rollout_phase(self) -> Round:
        """Propose, judge, remember, answer, judge, pay."""
        args = self.args
        proposals = self._judge(self._propose())
        times_proposed = Counter(item.proposed for item in proposals if item.proposed)
        # What is held out is attempted and paid like any other, but neither taught nor remembered.
        valid = [item for item in times_proposed if not is_held_out(item, args.held_out)]
        taught = self.proposer.taught(self.steps, valid)
        attempted = list(dict.fromkeys([*times_proposed, *taught]))
        novel = self._remember([*valid, *taught])

        attempts = [problem for problem in attempted for _ in range(args.n_attempts)]
        # The paper's attempts only measure; what is taught is answered once more, to be trained on.
        lessons = [] if args.train_attempts else taught
        answers = self._judge(self._answer([*attempts, *lessons, *self._refill(taught)]))
        measured, others = answers[: len(attempts)], answers[len(attempts) :]
        solve_rates = compute_solve_rates(measured)
        paid_by = self.measure.of(
            [one for one in measured if one.rollout.problem in times_proposed], solve_rates
        )
        self.proposer.judged(solve_rates)
        for item in answers:
            if item.rollout.problem in self.problems:
                self.problems.record(item.rollout.problem, item.verdict is Verdict.CORRECT)

        trained_on = set(taught) if args.train_attempts else set()
        trained = [item for item in measured if item.rollout.problem in trained_on]
        return Round(
            proposals=self._pay(proposals, paid_by, times_proposed),
            novel=tuple(novel),
            solve_rates=solve_rates,
            answers=self._pay(trained + others, paid_by, times_proposed),
            taught=len(trained) + len(lessons),
            completions=tuple(item.rollout for item in proposals + answers),
        )

    def _propose(self) -> list[Rollout]:
        """B proposals a task, each after references drawn from the buffer; none without an author."""
        author, args = self.proposer.author, self.args
        if author is None:
            return []
        prompts = (
            self.renderer.proposer(task, self.problems.sample(task, args.n_references))
            for task in TASKS
            for _ in range(args.batch_size)
        )
        return self._rollout(author, prompts)

    def _answer(self, problems: Sequence[Problem]) -> list[Rollout]:
        """One answer to each problem."""
        return self._rollout(self.policy, map(self.renderer.solver, problems))

    def _rollout(self, policy: Policy, prompts: Iterable[Prompt]) -> list[Rollout]:
        with self.sampling():
            return rollout(
                policy,
                list(prompts),
                temperature=self.args.temperature,
                max_rows=self.args.rollout_rows,
                generator=self.sampling_rng,
            )

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """All weights are there, and products are in the precision of the run."""
        with self.weights.gathered(), self.accelerator.autocast():
            yield

    def _judge(self, rollouts: Sequence[Rollout]) -> list[Judged]:
        return judge_rollouts(rollouts, self.args.min_prime, self.args.max_prime)

    def _remember(self, problems: Sequence[Problem]) -> list[Problem]:
        """Puts problems into the buffer, and what the other tasks ask about the same numbers. Returns
        those that were not known before."""
        novel = [problem for problem in problems if self.problems.add(problem)]
        if self.args.share_triples:
            for problem in novel:
                self.problems.add_triple(problem)
        return novel

    def _refill(self, taught: Sequence[Problem]) -> list[Problem]:
        """Returns problems of the buffer that, with those that are taught, make up the answers of a step:
        B n a task where attempts are trained on, B otherwise (the paper); none with `--refill none`."""
        args, draw = self.args, REFILLS[self.args.refill]
        drawn: list[Problem] = []
        for task in TASKS:
            missing = args.batch_size - sum(problem.task is task for problem in taught)
            answers = missing * (args.n_attempts if args.train_attempts else 1)
            asked = draw(self.problems, task, ceil(answers / args.refill_attempts))
            repeated = [problem for problem in asked for _ in range(args.refill_attempts)]
            drawn += repeated[:answers]
        return drawn

    def _pay(
        self,
        judged: Sequence[Judged],
        paid_by: Mapping[Problem, float],
        times_proposed: Mapping[Problem, int],
    ) -> tuple[Scored, ...]:
        """Returns the rollouts with what each earns, and what a proposal loses for being one of many.
        paid_by: what was measured of each valid proposal."""
        args, settings = self.args, self.args.reward_settings
        scored = []
        for item in judged:
            measured, cost = None, 0.0
            if item.proposed is not None:
                measured, copies = paid_by[item.proposed], times_proposed[item.proposed]
                cost = crowding_cost(copies, args.batch_size, args.crowding_cost)
            reward = compute_r_total(item.rollout.role, item.verdict, measured, **settings)
            scored.append(Scored(item.rollout, item.verdict, reward, cost, item.proposed))
        return tuple(scored)

    # ---------------------------------------------------------------- learning phase

    def learning_phase(self, played: Round) -> Learned:
        """Turns a round's rollouts into optimizer steps."""
        args = self.args
        scored = played.scored if self.proposer.learns else played.answers
        advantages = compute_advantages(
            torch.tensor([item.reward for item in scored]),
            torch.tensor([item.rollout.cell for item in scored]),
            mode=args.advantage,
            groups=attempt_groups(scored, args.n_attempts) if args.advantage == "grpo" else None,
            costs=torch.tensor([item.cost for item in scored]),
        ).tolist()
        weight_of = {Role.PROPOSER: args.proposer_weight, Role.SOLVER: 1.0}
        replay = ReplayBuffer(
            [item.rollout for item in scored],
            advantages,
            [weight_of[item.rollout.role] for item in scored],
        )
        lr = learning_rate(self.steps, args.lr, args.lr_warmup, args.lr_hold, args.lr_half_life)
        return Learned(tuple(scored), tuple(advantages), self.learner.learn(replay, lr))


def _weights(policy: Policy, args: AZRArgs, accelerator: Accelerator) -> Replicated:
    """Who has them."""
    if not args.shard:
        return Replicated(policy.model)
    narrow = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    return Sharded(policy.model, layers_of(policy.model), narrow)
