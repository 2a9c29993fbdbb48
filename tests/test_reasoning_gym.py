"""The problems in reasoning-gym. Oracles: the verifier of training on ten thousand texts; what every
dataset of reasoning-gym promises."""

import json
import subprocess
import sys
from itertools import islice

import pytest

reasoning_gym = pytest.importorskip("reasoning_gym", reason="pip install reasoning-gym==0.1.25")

from helpers.environments_page import block_with
from helpers.hostile_text import SPAN
from helpers.judged_texts import judged_answers

from constants import ROOT
from custom_types import TASKS, Problem
from prime_inversion import is_held_out
from utils.environments.environment import Environment, problem_of
from utils.environments.for_reasoning_gym import NAME, PrimeInversionDataset


def dataset(**given) -> PrimeInversionDataset:
    return reasoning_gym.create_dataset(NAME, **given)


def problem_in(entry: dict) -> Problem:
    return problem_of(*(entry["metadata"][name] for name in ("task", "x", "y", "p")))


def test_it_is_registered_and_keeps_its_promises():
    one, same, other = dataset(seed=3, size=60), dataset(seed=3, size=60), dataset(seed=4, size=60)
    entries = list(one)
    assert len(one) == len(entries) == 60
    assert entries == list(same) != list(other)
    assert {entry["metadata"]["source_dataset"] for entry in entries} == {NAME}
    assert [entry["metadata"]["source_index"] for entry in entries] == list(range(60))
    assert all(one.score_answer(entry["answer"], entry) == 1.0 for entry in entries)
    assert {problem_in(entry).task for entry in entries} == set(TASKS)
    for entry in entries:
        assert entry["question"] == Environment().solver_text(problem_in(entry))
    assert one.score_answer(None, entries[0]) == one.score_answer("", entries[0]) == 0.0
    for no_text in (4, True, ["4"], b"4"):
        assert one.score_answer(no_text, entries[0]) == 0.0


def test_an_entry_is_scored_by_its_own_range():
    """Whoever scores it, as after a round trip through JSON: 8 * 7 - 1 = 5 * 11, and 17 * 18 - 1 = 5 * 61."""
    score = reasoning_gym.get_score_answer_fn(NAME)  # with the range by default
    for low in (5, 7):
        entries = dataset(min_prime=low, max_prime=61, size=300, seed=0)
        for entry in json.loads(json.dumps(list(entries))):
            assert score(entry["answer"], entry) == 1.0
            assert score(r"\boxed{5}", entry) == entries.score_answer(r"\boxed{5}", entry)
    metadata = {"source_dataset": NAME, "task": "induction", "x": 8, "y": 7, "p": 11}
    for low, right in ((5, 1.0), (7, 0.0)):
        entry = {"metadata": metadata | {"difficulty": {"p": [low, 31]}}}
        assert score(r"\boxed{5}", entry) == right


def test_an_entry_of_another_data_set_is_refused():
    (entry,) = reasoning_gym.create_dataset("gcd", size=1, seed=0)
    with pytest.raises(ValueError, match="entry: must be one of prime_inversion, not of gcd"):
        dataset().score_answer(r"\boxed{5}", entry)


def test_what_the_page_shows_runs():
    subprocess.run([sys.executable, "-c", block_with("reasoning_gym")], cwd=ROOT, check=True)


def test_its_scores_agree_with_the_verifier():
    """1 where training pays 1, 0 where it pays -0.5 or -1."""
    own = dataset(min_prime=SPAN[0], max_prime=SPAN[1], seed=0)
    for text, problem, reward in judged_answers():
        numbers = {name: getattr(problem, name) for name in ("task", "x", "y", "p")}
        metadata = numbers | {"source_dataset": NAME, "difficulty": {"p": SPAN}}
        assert own.score_answer(text, {"metadata": metadata}) == (reward == 1.0), text[:200]


def test_it_mixes_with_other_datasets():
    """In reasoning-gym's own mixture, which scores each entry by the dataset that made it."""
    from reasoning_gym.composite import DatasetSpec

    specs = [DatasetSpec(name, weight=1, config={}) for name in (NAME, "gcd")]
    mixed = reasoning_gym.create_dataset("composite", seed=1, size=40, datasets=specs)
    entries = list(islice(mixed, 40))
    assert {entry["metadata"]["source_dataset"] for entry in entries} == {NAME, "gcd"}
    assert all(mixed.score_answer(entry["answer"], entry) == 1.0 for entry in entries)


def test_what_is_held_out_is_left_out():
    entries = dataset(max_prime=61, held_out=0.25, seed=0)
    assert not any(is_held_out(problem_in(entry), 0.25) for entry in entries)


@pytest.mark.parametrize(
    "given, said",
    [
        (dict(min_prime=24, max_prime=28), "min_prime 24, max_prime 28"),
        (dict(size=-3), "size -3: must be an integer of at least 0"),
        (dict(size=2.5), "size 2.5: must be an integer of at least 0"),
        (dict(seed="x"), "seed 'x': must be an integer"),
        (dict(max_answer_tokens=0), "max_answer_tokens 0: must be an integer of at least 1"),
    ],
)
def test_what_it_cannot_be_made_of_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        dataset(**given)
