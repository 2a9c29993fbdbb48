"""The controls of a study, in the real trainer. Oracle: which rows are there, and who is paid what."""

import json
from collections import Counter
from dataclasses import fields

import pytest
import torch
from helpers.trainers import make_trainer, weights

from custom_types import CELLS, TASKS, Learned, Problem, Role, TaskType, Verdict
from model.args import ArgumentError, AZRArgs
from model.proposers.table import PROPOSERS
from model.run.yoking import proposed_problems


def roles(learned: Learned) -> set[Role]:
    return {item.rollout.role for item in learned.scored}


def test_uniform_draws_problems_and_asks_no_proposer(warm_tiny):
    trainer = make_trainer(warm_tiny[0], proposer="uniform")
    before = len(trainer.problems)
    done = trainer.step()
    metrics = done.metrics
    assert roles(done.learned) == {Role.SOLVER} and len(done.learned.scored) == 3 * 8 * 3
    assert len(trainer.problems) > before  # what is drawn is remembered
    for task in TASKS:
        assert metrics[f"valid_frac/{task}"] != metrics[f"valid_frac/{task}"]  # NaN: none proposed
        assert 0 <= metrics[f"solve_rate/{task}"] <= 1


@pytest.mark.parametrize("proposer", ["frozen", "untrained"])
def test_their_proposals_are_paid_but_never_trained_on(warm_tiny, proposer):
    trainer = make_trainer(warm_tiny[0], proposer=proposer)
    done = trainer.step()
    assert roles(done.learned) == {Role.SOLVER}
    for task in TASKS:
        assert -1 <= done.metrics[f"reward/proposer_{task}"] <= 1
        assert 0 <= done.metrics[f"valid_frac/{task}"] <= 1


@pytest.mark.parametrize("proposer", ["self", "decoy", "frozen", "untrained"])
def test_proposer_rewards_move_weights_only_where_it_is_trained(warm_tiny, proposer):
    """Two runs that differ in what proposals earn, and in nothing else."""
    results = []
    for invalid_reward in (-0.5, 0.9):
        trainer = make_trainer(warm_tiny[0], proposer=proposer, invalid_reward=invalid_reward)
        trainer.step()
        results.append(weights(trainer))
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert same == (proposer in ("frozen", "untrained"))


def proposer_logits(trainer) -> torch.Tensor:
    """What the author of a trainer's proposals thinks of a first token."""
    (prompt,) = {
        trainer.renderer.proposer(TaskType.DEDUCTION, [Problem(TaskType.DEDUCTION, 2, 4, 7)])
    }
    model = trainer.proposer.author.model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]


@pytest.mark.parametrize("proposer", ["self", "frozen", "untrained"])
def test_a_snapshot_stays_as_it_was_and_no_other_does(warm_tiny, proposer):
    trainer = make_trainer(warm_tiny[0], proposer=proposer, lr_warmup=0)
    before = proposer_logits(trainer)
    for _ in range(2):
        trainer.step()
    assert torch.equal(proposer_logits(trainer), before) == (proposer == "frozen")


def test_a_snapshot_is_part_of_the_state(warm_tiny):
    """Another process, which has loaded the trained weights, gets the first ones for its proposer."""
    trainer = make_trainer(warm_tiny[0], proposer="frozen", lr_warmup=0)
    trainer.step()
    later = make_trainer(trainer.policy, proposer="frozen")
    assert not torch.equal(proposer_logits(later), proposer_logits(trainer))
    later.proposer.load_state_dict(trainer.proposer.state_dict())
    assert torch.equal(proposer_logits(later), proposer_logits(trainer))


def test_a_decoy_learns_from_its_proposals_and_the_solver_from_others(warm_tiny):
    """Each valid proposal is paid by n attempts at itself; the answers trained on are B n a task, those
    to this step's problems as many as the distinct valid proposals', and mostly to other problems."""
    trainer = make_trainer(warm_tiny[0], proposer="decoy", batch_size=64, n_attempts=4)
    done = trainer.step()
    played = done.played
    valid = [item for item in played.proposals if item.proposed is not None]
    assert roles(done.learned) == {Role.PROPOSER, Role.SOLVER}
    attempts = Counter(one.problem for one in played.completions if one.role is Role.SOLVER)
    for item in valid:
        rate = played.solve_rates[item.proposed]
        assert attempts[item.proposed] >= 4
        assert item.reward == (1 - rate if 0 < rate < 1 else 0)
    proposed = {item.proposed for item in valid}
    distinct = Counter(problem.task for problem in proposed)
    assert len(played.answers) == 3 * 64 * 4 and played.taught == 4 * sum(distinct.values())
    taught = {item.rollout.problem for item in played.answers[: played.taught]}
    assert Counter(problem.task for problem in taught) == distinct
    assert len(taught & proposed) < len(proposed) / 2
    untrained = 4 * len(proposed - taught)
    sampled = 3 * 64 * 4 + untrained
    assert done.metrics["answer_frac/untrained"] == pytest.approx(untrained / sampled)
    assert done.metrics["answer_frac/taught"] == pytest.approx(played.taught / sampled)


def test_nobody_proposes_and_the_buffer_fills_every_batch(warm_tiny):
    trainer = make_trainer(warm_tiny[0], proposer="none", seed_problems=1000)
    known = len(trainer.problems)
    assert known == 32 + 32 + 28  # every problem with primes to 13
    done = trainer.step()
    assert roles(done.learned) == {Role.SOLVER} and len(done.learned.scored) == 3 * 8 * 3
    assert done.metrics["answer_frac/refill"] == 1 and len(trainer.problems) == known


@pytest.mark.slow
def test_a_yoked_run_follows_step_by_step(warm_tiny, half):
    """As many distinct problems of each task as the run of 20 steps proposed, drawn anew."""
    settings = dict(proposer="yoked", yoked_to=str(half), total_steps=20)
    followed = proposed_problems(AZRArgs(max_prime=13, **settings))
    trainer = make_trainer(warm_tiny[0], followed=followed, **settings)
    lines = (half / "problems.jsonl").read_text().splitlines()
    for line in lines[:5]:
        row = json.loads(line)
        done = trainer.step()
        drawn = Counter(problem.task for problem in done.played.solve_rates)
        assert drawn == Counter({task: len(row[task]) for task in TASKS if row[task]})
        assert roles(done.learned) == {Role.SOLVER}


def test_the_flag_offers_every_proposer():
    (field,) = (item for item in fields(AZRArgs) if item.name == "proposer")
    assert field.metadata["choices"] == tuple(PROPOSERS)
    for wrong, said in (
        (dict(proposer="yoked"), "--proposer yoked: must have --yoked-to RUN_DIR"),
        (dict(proposer="replayed"), "--proposer replayed: must have --yoked-to RUN_DIR"),
        (dict(yoked_to="a"), "--yoked-to a: must have --proposer yoked or replayed, not self"),
        (dict(proposer="none", refill="none"), "--proposer none --refill none: must have one"),
    ):
        with pytest.raises(ArgumentError, match=said):
            AZRArgs(**wrong)


def test_grpo_compares_the_attempts_at_one_problem(warm_tiny):
    """Recomputed for every problem from the rows themselves: mean 0 in each group, and 0 where all
    attempts earned the same."""
    trainer = make_trainer(warm_tiny[0], advantage="grpo", batch_size=16, n_attempts=4)
    learned = trainer.step().learned
    groups, answered = {}, Counter(item.rollout.problem for item in learned.scored[48:])
    assert {item.rollout.role for item in learned.scored[48:]} == {Role.SOLVER}
    for item, advantage in zip(learned.scored, learned.advantages, strict=True):
        alone = item.rollout.role is Role.PROPOSER or answered[item.rollout.problem] < 4
        key = item.rollout.cell if alone else item.rollout.problem
        groups.setdefault(key, []).append((item.reward, advantage))
    assert len(groups) > len(CELLS)
    for rows in groups.values():
        assert sum(advantage for _, advantage in rows) == pytest.approx(0, abs=1e-5)
        if len({reward for reward, _ in rows}) == 1:
            assert {advantage for _, advantage in rows} == {0.0}


def test_the_format_reward_pays_wrong_answers(warm_tiny):
    trainer = make_trainer(warm_tiny[0], reward="format", crowding_cost=0.0)
    paid = {item.verdict: item.reward for item in trainer.step().learned.scored}
    assert paid[Verdict.WRONG] == 1 and paid.get(Verdict.VALID, 1) == 1
