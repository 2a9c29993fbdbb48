"""What a step's settings change of its problems and advantages. Oracles: exact counts, known
distributions, advantages recomputed by hand."""

import json
from collections import Counter
from statistics import fmean, stdev

import pytest
from helpers.trainers import make_trainer

from custom_types import TASKS, Problem, Role, TaskType
from model.args import AZRArgs
from model.proposers.table import PROPOSERS
from model.run.yoking import proposed_problems
from prime_inversion import all_problems

# ---------------------------------------------------------------- which problems


@pytest.mark.parametrize("refill", ["uniform", "unsolved"])
def test_the_refill_is_drawn_as_the_flag_says(warm_tiny, refill):
    """All 32 deduction problems with primes to 13 are known, all but one always solved: it weighs 1.02
    beside 31 * 0.02. Of 24 draws by weight it is 15 on average, with a standard deviation of 2.4; of 24
    uniform ones without replacement it is one at most."""
    trainer = make_trainer(warm_tiny[0], proposer="none", refill=refill, seed_problems=1000)
    first, *others = trainer.problems.problems(TaskType.DEDUCTION)
    for problem in others:
        for _ in range(200):
            trainer.problems.record(problem, True)
    answered = [item.rollout.problem for item in trainer.rollout_phase().answers]
    drawn = Counter(problem for problem in answered if problem.task is TaskType.DEDUCTION)
    assert len(others) == 31 and drawn.total() == 8 * 3
    assert drawn[first] >= 15 - 4 * 2.4 if refill == "unsolved" else max(drawn.values()) == 1


def test_the_refill_fills_up_each_task_alone(warm_tiny):
    """B = 8 less the problems of its own task that are taught, times n = 3."""
    trainer = make_trainer(warm_tiny[0], proposer="none")
    taught = [*all_problems(TaskType.INDUCTION, 5, 13)[:6], Problem(TaskType.DEDUCTION, 2, 4, 7)]
    trainer.proposer.taught = lambda step, valid: taught
    played = trainer.rollout_phase()
    drawn = Counter(item.rollout.task for item in played.answers[played.taught :])
    assert [drawn[task] for task in TASKS] == [8 * 3, 7 * 3, 2 * 3]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("proposer", ["uniform", "decoy"])
def test_triples_are_shared_whoever_wrote_or_drew_the_problem(warm_tiny, proposer, shared):
    """Every problem that a step brings, taught or only proposed, with or without its twins."""
    trainer = make_trainer(
        warm_tiny[0], proposer=proposer, batch_size=16, n_attempts=1, seed_problems=1,
        share_triples=shared,
    )  # fmt: skip
    new = trainer.rollout_phase().novel
    known = {(p.x, p.y, p.p, task) for task in TASKS for p in trainer.problems.problems(task)}
    twins = {
        (p.x, p.y, p.p, task) in known
        for p in new
        for task in TASKS
        if not (task is TaskType.INDUCTION and p.x == p.y == 1)
    }
    assert twins == ({True} if shared else {True, False})


def test_uniform_draws_as_many_as_proposals_are_asked_for():
    """8 draws of a task with replacement from N problems hold N (1 - (1 - 1/N)^8) distinct ones on
    average: 7.18 of 32 and 7.07 of 28. Over 400 steps the mean is off by less than 4 standard
    deviations of 0.8 / sqrt(400)."""
    uniform = PROPOSERS["uniform"](None, AZRArgs(max_prime=13, batch_size=8), {})
    drawn = [uniform.taught(step, []) for step in range(400)]
    assert all(len(set(own)) == len(own) for own in drawn)
    for task in TASKS:
        size = len(all_problems(task, 5, 13))
        mean = fmean(sum(problem.task is task for problem in own) for own in drawn)
        assert mean == pytest.approx(size * (1 - (1 - 1 / size) ** 8), abs=4 * 0.8 / 20)


def followed(folder, steps) -> AZRArgs:
    """Arguments that follow a run whose `problems.jsonl` is made by hand."""
    config = {"args": {"min_prime": 5, "max_prime": 13}}
    (folder / "config.json").write_text(json.dumps(config))
    rows = [{"step": step, **{str(t): own[t] for t in TASKS}} for step, own in steps.items()]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AZRArgs(max_prime=13, proposer="yoked", yoked_to=str(folder), total_steps=len(steps))


def test_yoked_draws_what_was_proposed_in_the_same_step(tmp_path):
    """By step, task and distinct problem: 2 4 7 was proposed three times in step 1 and is one problem;
    3 5 7 was attempted in step 2 and proposed by nobody, as a decoy's problems are."""
    first, second, third = ([2, 4, 7, 3, 0.5], [3, 5, 7, 0, 0.5], [4, 2, 7, 1, 0.0])
    abduction, deduction, induction = TASKS
    steps = {
        1: {abduction: [first], deduction: [], induction: []},
        2: {abduction: [second, third], deduction: [third], induction: [first, third]},
        3: {abduction: [], deduction: [], induction: [third]},
    }
    args = followed(tmp_path, steps)
    yoked = PROPOSERS["yoked"](None, args, proposed_problems(args))
    counts = {
        step: Counter(problem.task for problem in yoked.taught(step, [])) for step in (1, 3, 2)
    }
    assert counts == {
        1: {abduction: 1},
        2: {abduction: 1, deduction: 1, induction: 2},
        3: {induction: 1},
    }


def test_a_decoy_draws_distinct_problems_as_many_of_each_task_as_were_valid():
    """30 of the 32 deduction problems and one of abduction: drawn with replacement they would repeat."""
    decoy = PROPOSERS["decoy"](None, AZRArgs(max_prime=13), {})
    valid = all_problems(TaskType.DEDUCTION, 5, 13)[:30] + all_problems(TASKS[0], 5, 13)[:1]
    taught = decoy.taught(1, valid)
    assert Counter(problem.task for problem in taught) == {TaskType.DEDUCTION: 30, TASKS[0]: 1}
    assert len(set(taught)) == 31 and set(taught) != set(valid)


def test_each_proposer_prompt_shows_k_references(warm_tiny):
    trainer = make_trainer(warm_tiny[0], n_references=3, seed_problems=1000)
    asked, renderer_proposer = [], trainer.renderer.proposer

    def counted(task, references):
        asked.append((task, len(set(references))))
        return renderer_proposer(task, references)

    trainer.renderer.proposer = counted
    trainer.rollout_phase()
    assert Counter(asked) == {(task, 3): 8 for task in TASKS}


@pytest.mark.parametrize("train_attempts", [True, False])
def test_a_round_holds_what_was_sampled_and_what_was_new(warm_tiny, train_attempts):
    """By counts: 32 proposals a task; n = 3 attempts at each distinct valid problem; with attempts trained
    on, 32 * 3 answers a task in all, and without 32 more, of which one to each of those problems. Every
    answer is remembered, whatever it was for."""
    trainer = make_trainer(
        warm_tiny[0], batch_size=32, train_attempts=train_attempts, seed_problems=16
    )
    old, new = set(), set()

    def remembered() -> int:
        return sum(count for *_, count in trainer.problems.state_dict()["problems"])

    for _ in range(2):
        before = remembered()
        known = {problem for task in TASKS for problem in trainer.problems.problems(task)}
        played = trainer.rollout_phase()
        valid = {item.proposed for item in played.proposals if item.proposed is not None}
        assert Counter(played.novel) == Counter(valid - known)
        old, new = old | (valid & known), new | (valid - known)
        attempts = 3 * len(valid)
        answers = 3 * 32 * 3 if train_attempts else attempts + 3 * 32
        roles = Counter(one.role for one in played.completions)
        assert roles == {Role.PROPOSER: 3 * 32, Role.SOLVER: answers}
        assert len(played.answers) == (3 * 32 * 3 if train_attempts else 3 * 32)
        assert played.taught == (attempts if train_attempts else len(valid))
        assert remembered() - before == answers
    assert old and new


def test_what_is_drawn_is_answered_once_more_where_attempts_are_not_trained_on(warm_tiny):
    """The environment's problems too: each has its three attempts, and one answer that is trained on."""
    trainer = make_trainer(warm_tiny[0], proposer="uniform", train_attempts=False)
    played = trainer.rollout_phase()
    lessons = [item.rollout.problem for item in played.answers[: played.taught]]
    assert set(lessons) == set(played.solve_rates) and len(lessons) == len(set(lessons)) > 3
    assert len(played.answers) == 3 * 8
    asked = Counter(one.problem for one in played.completions)
    assert all(asked[problem] >= 3 + 1 for problem in lessons)


# ---------------------------------------------------------------- which advantages


@pytest.mark.parametrize("n_attempts", [4, 2, 1])
def test_grpo_normalises_within_the_attempts_at_one_problem(warm_tiny, n_attempts):
    """Recomputed from the rows: (r - mean) / std among the answers to a problem that has n of them or
    more, where they differ; among what is left of the cell otherwise."""
    trainer = make_trainer(
        warm_tiny[0], advantage="grpo", batch_size=16, n_attempts=n_attempts, crowding_cost=0.0
    )
    learned = trainer.step().learned
    answered = Counter(
        item.rollout.problem for item in learned.scored if item.rollout.role is Role.SOLVER
    )
    groups: dict = {}
    for item, advantage in zip(learned.scored, learned.advantages, strict=True):
        rollout = item.rollout
        alone = rollout.role is Role.PROPOSER or answered[rollout.problem] < n_attempts
        key = rollout.cell if alone else rollout.problem
        groups.setdefault(key, []).append((item.reward, advantage))
    seldom = [count for count in answered.values() if count < n_attempts]
    assert bool(seldom) == (n_attempts > 1) and any(learned.advantages)
    for rows in groups.values():
        rewards = [reward for reward, _ in rows]
        for reward, advantage in rows:
            expected = (reward - fmean(rewards)) / stdev(rewards) if len(set(rewards)) > 1 else 0.0
            assert advantage == pytest.approx(expected, abs=1e-5)


def test_answers_cost_nothing_and_proposals_their_crowd(warm_tiny):
    """By hand: what is the same problem as k of a task's 32 proposals costs 0.5 k / 32, and nothing else
    costs anything."""
    trainer = make_trainer(warm_tiny[0], batch_size=32, crowding_cost=0.5)
    played = trainer.rollout_phase()
    copies = Counter(item.proposed for item in played.proposals if item.proposed is not None)
    costs = [0.5 * copies[item.proposed] / 32 for item in played.proposals]
    assert [item.cost for item in played.proposals] == pytest.approx(costs)
    assert max(copies.values()) > 1 and {item.cost for item in played.answers} == {0.0}


# ---------------------------------------------------------------- over the steps


def test_the_learning_rate_of_a_late_step(warm_tiny):
    """Half the peak a half-life of 25 steps after the hold of 130."""
    trainer = make_trainer(warm_tiny[0], lr=0.01)
    trainer.steps = 154
    assert trainer.step().metrics["learning_rate"] == pytest.approx(0.005)


def test_tokens_are_counted_over_all_steps(warm_tiny):
    trainer = make_trainer(warm_tiny[0])
    sampled, counted = 0, []
    for _ in range(2):
        done = trainer.step()
        counted.append(done.metrics["num_tokens"])
        completions = done.played.completions
        sampled += sum(len(one.prompt_ids) + len(one.response_ids) for one in completions)
    assert 0 < counted[0] < counted[1] == sampled
