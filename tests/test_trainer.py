"""The self-play step. Oracles: arithmetic, metamorphic pairs, a rigged environment, real runs."""

from collections import Counter

import pytest
import torch
from helpers.trainers import (
    EqualPay,
    flat_gradient,
    keep_weights,
    make_trainer,
    relative,
    untimed,
    weights,
    without_refill,
)

from compute.advantages import compute_advantages
from custom_types import (
    CELLS,
    TASKS,
    Judged,
    Policy,
    Problem,
    Role,
    Rollout,
    TaskType,
    Verdict,
)
from prompts import COMPACT
from utils.mocks.mock_transformer import MockConfig, MockTransformer
from utils.validate_by_executing import judge_proposer


@pytest.mark.parametrize("minibatches", [1, 4])
def test_the_ratio_is_one_before_the_first_update(warm_tiny, minibatches):
    """Every token is scored by the weights that sampled it: of all rows of a step, the training forward's
    probability is the sampler's own. What an update starts from, its own forward, says nothing of
    that. `tests/test_minibatches.py` has the negative controls."""
    metrics = make_trainer(warm_tiny[0], minibatches=minibatches).step().metrics
    assert metrics["sampling/ratio_max"] == pytest.approx(1, abs=1e-4)
    assert metrics["sampling/approx_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["sampling/logp_difference_max"] < 1e-4


def test_the_ratio_of_rescored_minibatches_is_one_until_the_weights_move(warm_tiny):
    """Every minibatch but the first is rescored; here no update moves the weights."""
    trainer = make_trainer(warm_tiny[0], minibatches=4)
    trainer.learner.optimizer.step = lambda: None
    metrics = trainer.step().metrics
    assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-9)


def test_later_minibatches_drift(warm_tiny):
    """Negative control of the test above."""
    metrics = make_trainer(warm_tiny[0], minibatches=4, lr_warmup=0).step().metrics
    assert metrics["ratio_max"] > 1.001 and metrics["approx_kl"] > 1e-7


def test_a_learning_rate_of_1e_6_moves_weights(warm_tiny):
    trainer = make_trainer(warm_tiny[0], lr=1e-6, lr_warmup=0)
    before = weights(trainer)
    trainer.step()
    changed = sum((a != b).sum().item() for a, b in zip(before, weights(trainer), strict=True))
    assert changed > 0.8 * sum(weight.numel() for weight in before)


def test_equal_rewards_move_no_weight(warm_tiny):
    """Environment, not code under test, is rigged: every rollout earns 0.3 and costs nothing."""
    trainer = make_trainer(warm_tiny[0], EqualPay, entropy_coef=0.0, crowding_cost=0.0)
    before = weights(trainer)
    done = trainer.step()
    assert {item.reward for item in done.learned.scored} == {0.3}
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert done.metrics["frac_reward_zero_std"] == 1 and done.metrics["grad_norm"] == 0


def test_unequal_rewards_move_weights(warm_tiny):
    """Negative control of the test above: the rewards that the rig takes the place of."""
    trainer = make_trainer(warm_tiny[0], entropy_coef=0.0, crowding_cost=0.0)
    before = weights(trainer)
    done = trainer.step()
    assert len({item.reward for item in done.learned.scored}) > 1
    assert done.metrics["grad_norm"] > 0
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))


class RiggedTokenizer:
    """Six words behind ids 0..5, so that a table policy can be trained by the real trainer."""

    chat_template = None

    def __len__(self):
        return 6

    def __call__(self, text):
        return {"input_ids": [2]}

    def batch_decode(self, rows, **options):
        return [" ".join(map(str, row)) for row in rows]


def test_an_answer_that_is_always_rewarded_becomes_likely(monkeypatch):
    """A table policy, uniform over 6 tokens, and a verifier, rigged, for which a response is right that
    begins with a 4: a correct answer, or a valid proposal."""
    tokenizer = RiggedTokenizer()
    model = MockTransformer(MockConfig(vocab_size=6))
    policy = Policy("table", model, tokenizer, COMPACT, stop_ids=(1,), pad_id=0)

    def rigged(rollout, *span):
        right = rollout.response_ids[0] == 4
        if rollout.role is Role.SOLVER:
            return Judged(rollout, Verdict.CORRECT if right else Verdict.WRONG)
        if right:
            return Judged(rollout, Verdict.VALID, rollout.problem)
        return Judged(rollout, Verdict.INVALID)

    monkeypatch.setattr("utils.validate_by_executing.judge_rollout", rigged)
    trainer = make_trainer(
        policy, lr=0.05, lr_warmup=0, entropy_coef=0.0, crowding_cost=0.0, max_proposal_tokens=2,
        max_answer_tokens=2,
    )  # fmt: skip
    probability = [trainer.policy.model.table[2].softmax(-1)[4].item()]
    for _ in range(5):
        learned = trainer.step().learned
        probability.append(trainer.policy.model.table[2].softmax(-1)[4].item())
    for item in learned.scored:
        right = item.rollout.response_ids[0] == 4
        assert right == (item.verdict in (Verdict.CORRECT, Verdict.VALID))
        assert item.reward >= 0 if right else item.reward == -0.5
    assert probability[0] == pytest.approx(1 / 6)
    assert probability == sorted(probability) and probability[-1] > 0.5


@pytest.mark.parametrize("train_attempts", [True, False])
def test_every_rollout_is_paid_for_its_own_problem(warm_tiny, train_attempts):
    """Recompute each reward from the text of the row itself, by brute force."""
    trainer = make_trainer(
        warm_tiny[0], train_attempts=train_attempts, minibatches=2, crowding_cost=0.0
    )
    for _ in range(3):
        scored = trainer.step().learned.scored
        for item in scored:
            row = item.rollout
            expected = brute_reward(row)
            if expected == "valid":
                assert item.verdict is Verdict.VALID and 0 <= item.reward <= 1 - 1 / 3
            else:
                assert item.reward == expected, row
        rows = [item.rollout for item in scored]
        counts = [sum((r.role, r.task) == cell for r in rows) for cell in CELLS]
        answers = 8 * 3 if train_attempts else 8
        assert counts == [8, 8, 8, answers, answers, answers]


def brute_reward(row: Rollout):
    """-1, -0.5, 1, or "valid": from the rules, by trying every value."""
    text = row.text
    if not row.finished or not text.startswith("\\boxed{") or not text.endswith("}"):
        return -1.0
    body = text.removeprefix("\\boxed{").removesuffix("}")
    if row.role is Role.SOLVER:
        problem = row.problem
        if not body.isdigit():
            return -1.0
        value = int(body)
        if row.task is TaskType.INDUCTION:
            good = value in (5, 7, 11, 13) and problem.x * problem.y % value == 1
        else:
            known = problem.y if row.task is TaskType.ABDUCTION else problem.x
            good = value in [v for v in range(1, problem.p) if v * known % problem.p == 1]
        return 1.0 if good else -0.5
    try:
        left, rest = body.split(" ≡ 1 (mod ")
        x, y = left.split(" * ")
        p = rest.removesuffix(")")
        letters = [letter for letter in (x, y, p) if not letter.isdigit()]
        if (
            letters != [row.task.asked]
            or {"x": x, "y": y, "p": p}[row.task.asked] != row.task.asked
        ):
            return -1.0
    except ValueError:
        return -1.0
    fits = [
        (a, b, q)
        for q in (5, 7, 11, 13)
        for a in range(1, q)
        for b in range(1, q)
        if a * b % q == 1
        and (x, y, p) in {("x", str(b), str(q)), (str(a), "y", str(q)), (str(a), str(b), "p")}
    ]
    trivial = row.task is TaskType.INDUCTION and (x, y) == ("1", "1")
    return "valid" if fits and not trivial else -0.5


@pytest.mark.parametrize("extreme_reward, crowding_cost", [(0.0, 0.0), (-0.5, 0.5)])
def test_a_proposal_is_paid_by_the_solve_rate_of_that_very_problem(
    warm_tiny, extreme_reward, crowding_cost
):
    """And costs the share of its cell's 32 proposals that are the same problem, times the flag."""
    trainer = without_refill(
        warm_tiny[0], batch_size=32, n_attempts=4, extreme_reward=extreme_reward,
        crowding_cost=crowding_cost,
    )  # fmt: skip
    rates = []
    for _ in range(4):
        scored = trainer.step().learned.scored
        attempts = {}
        for item in scored:
            if item.rollout.role is Role.SOLVER:
                attempts.setdefault(item.rollout.problem, []).append(
                    item.verdict is Verdict.CORRECT
                )
        valid = [item for item in scored if item.verdict is Verdict.VALID]
        copies = Counter(completed(item.rollout) for item in valid)
        for item in valid:
            problem = completed(item.rollout)
            assert len(attempts[problem]) == 4
            rates.append(sum(attempts[problem]) / 4)
            learnability = extreme_reward if rates[-1] in (0, 1) else 1 - rates[-1]
            assert item.reward == pytest.approx(learnability)
            assert item.cost == pytest.approx(crowding_cost * copies[problem] / 32)
    assert len(set(rates)) >= 3


def completed(row: Rollout) -> Problem:
    return judge_proposer(row.text, row.task, 5, 13)[1]


def test_unique_problems_are_attempted_once_each(warm_tiny):
    trainer = make_trainer(warm_tiny[0], batch_size=32)
    done = trainer.step()
    valid = {completed(i.rollout) for i in done.learned.scored if i.verdict is Verdict.VALID}
    for task in TASKS:
        distinct = sum(problem.task is task for problem in valid)
        assert done.metrics[f"distinct_frac/{task}"] == distinct / 32
    assert valid <= set(p for task in TASKS for p in trainer.problems.problems(task))


def test_the_same_seed_gives_the_same_run_and_another_does_not(warm_tiny):
    def run(seed):
        trainer = make_trainer(warm_tiny[0], seed=seed)
        return [untimed(trainer.step().metrics) for _ in range(3)]

    def text(rows):
        return repr(rows)  # NaN equals itself as text

    assert text(run(5)) == text(run(5))
    assert text(run(5)) != text(run(6))


def test_slicing_the_rollouts_does_not_change_the_step(warm_tiny):
    texts = []
    for rows in (1024, 7):
        scored = make_trainer(warm_tiny[0], rollout_rows=rows).step().learned.scored
        texts.append(sorted((i.rollout.text, i.rollout.task, i.reward) for i in scored))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("aggregate", ["sequence", "token"])
def test_the_size_of_a_microbatch_does_not_change_the_gradient(warm_tiny, aggregate):
    """Whole, eight rows and one row at a time; in float64 a relative 1e-6 is far above rounding."""
    gradients = []
    for tokens in (10**6, 150, 1):
        trainer = make_trainer(
            warm_tiny[0], microbatch_tokens=tokens, minibatches=1, aggregate=aggregate,
            max_grad_norm=1e9,
        )  # fmt: skip
        trainer.policy.model.double()
        played = trainer.rollout_phase()
        keep_weights(trainer)
        trainer.learning_phase(played)
        gradients.append(flat_gradient(trainer))
    for other in gradients[1:]:
        assert relative(other, gradients[0]) < 1e-6
    assert gradients[0].norm() > 1e-3


def test_advantages_stay_with_their_rollouts(warm_tiny):
    """After the shuffling and sorting of an update, each row's advantage is still its own."""
    learned = make_trainer(warm_tiny[0]).step().learned
    rewards = torch.tensor([item.reward for item in learned.scored])
    cells = torch.tensor([item.rollout.cell for item in learned.scored])
    costs = torch.tensor([item.cost for item in learned.scored])
    expected = compute_advantages(rewards, cells, costs=costs).tolist()
    assert tuple(expected) == learned.advantages


@pytest.mark.parametrize(("train_attempts", "answers"), [(True, 3 * 4), (False, 4)])
def test_a_drawn_problem_is_attempted_as_often_as_asked(warm_tiny, train_attempts, answers):
    """By hand: four problems of three attempts, or four answers, are missing; five attempts at each
    problem that is drawn."""
    trainer = make_trainer(
        warm_tiny[0],
        proposer="none",
        batch_size=4,
        n_attempts=3,
        train_attempts=train_attempts,
        refill_attempts=5,
    )
    drawn = trainer._refill([])
    assert len(drawn) == 3 * answers
    for number, task in enumerate(TASKS):
        of_task = drawn[number * answers :][:answers]
        assert {problem.task for problem in of_task} == {task}
        for start in range(0, answers, 5):
            assert len(set(of_task[start : start + 5])) == 1
