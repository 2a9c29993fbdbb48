"""`reasoner`: what its scratchpad says, and what it is taught before it plays. Oracles: arithmetic by hand
and anew, a binomial bound, files."""

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from helpers.run_contents import done_here

from compute.estimates import wilson_interval
from constants import ROOT
from custom_types import TASKS, TaskType, Verdict
from model.args import parse_args
from model.eval.study_results import load_runs
from model.policy import reasoner
from model.policy.language import language
from model.policy.load import load_policy
from model.policy.reasoner import build_reasoner, learn_arithmetic, reasoner_tokenizer, scratchpad
from model.policy.weights import PolicyError
from prime_inversion import guess_rate, primes_between
from prompts import COMPACT_WORDS
from utils.string_formatting import PromptRenderer, parse_proposer
from utils.validate_by_executing import judge_solver

SHORT = ["--model", "reasoner", "--warm-start-steps", "4", "--warm-start-batch", "8"]


def taught(*flags: str):
    args = parse_args([*SHORT, *flags], language_of=language)
    policy = load_policy(args)
    return policy, PromptRenderer.for_policy(policy, args), args


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_scratchpads_by_hand():
    deduction = scratchpad(TaskType.DEDUCTION, 2, 4, 7, (5, 7))
    assert deduction == ["1=2 ", "2=4 ", "3=6 ", "4=1 ", "5=3 ", "6=5 "]
    abduction = scratchpad(TaskType.ABDUCTION, 2, 4, 7, (5, 7))
    assert abduction == ["1=4 ", "2=1 ", "3=5 ", "4=2 ", "5=6 ", "6=3 "]
    # 59 * 60 = 3540 = 59 * 60 + 0, and 3540 = 5 * 708 = 7 * 505 + 5 = 61 * 58 + 2.
    assert scratchpad(TaskType.INDUCTION, 59, 60, 61, (5, 7, 61)) == [
        "59=0 ", "5=0 ", "7=5 ", "61=2 ",
    ]  # fmt: skip


def test_a_step_of_the_scratchpad_is_two_words():
    tokenizer = reasoner_tokenizer()
    text = "".join(scratchpad(TaskType.DEDUCTION, 17, 18, 61, ())) + r"\boxed{18}"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 2 * 60 + 3 and tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["1", "=17 "]
    assert len(tokenizer) == 3 + 61 + len(COMPACT_WORDS) + 62


def test_what_it_is_taught_is_arithmetic_and_no_inverses():
    """2,000 texts. A list ends anywhere alike, so that the last candidate of a problem's list is right as
    often as a guess: within 4 standard deviations, a false alarm in 16,000 runs for each task."""
    _, renderer, _ = taught()
    rng, primes = Random(3), primes_between(5, 61)
    found = {task: [0, 0.0, 0.0] for task in TASKS}  # correct, expected, variance
    lengths, fits = set(), set()
    for _ in range(2000):
        prompt, text = reasoner._answer(renderer, rng, 61)
        problem, task = prompt.problem, prompt.task
        *steps, box = text.split(" ")
        assert box == rf"\boxed{{{steps[-1].partition('=')[0]}}}"
        if task is TaskType.INDUCTION:
            x, _, y, *_ = prompt.text.partition("solve ")[2].split(" ")
            product = int(x) * int(y)
            high, _, low = steps[0].partition("=")
            assert int(high) * 60 + int(low) == product
            assert all(product % int(q) == int(r) for q, r in (s.split("=") for s in steps[1:]))
            fits.add(any(product % q == 1 and q > max(int(x), int(y)) for q in primes))
            continue
        given = problem.y if task is TaskType.ABDUCTION else problem.x
        assert steps == [f"{k}={k * given % problem.p}" for k in range(1, len(steps) + 1)]
        lengths.add(len(steps) / (problem.p - 1))
        chance = guess_rate(problem, 5, 61)
        correct = judge_solver(text, problem, 5, 61) is Verdict.CORRECT
        totals = found[task]
        found[task] = [totals[0] + correct, totals[1] + chance, totals[2] + chance * (1 - chance)]
    assert min(lengths) < 0.1 and max(lengths) == 1 and fits == {True, False}
    for task in (TaskType.ABDUCTION, TaskType.DEDUCTION):
        correct, expected, variance = found[task]
        assert abs(correct - expected) < 4 * math.sqrt(variance)


def test_its_first_proposals_have_the_form():
    _, renderer, _ = taught()
    rng = Random(1)
    for _ in range(300):
        prompt, text = reasoner._proposal(renderer, rng, 1)
        equation = parse_proposer(text, prompt.task)
        assert equation is not None
        if prompt.task is not TaskType.INDUCTION:
            given = equation.y if prompt.task is TaskType.ABDUCTION else equation.x
            assert equation.p in primes_between(5, 61) and 1 <= given < equation.p


def test_arithmetic_is_learned_once_and_kept(cache):
    said = []
    first, _, args = taught()
    assert learn_arithmetic(first, args, said.append) > 0
    (kept,) = cache.rglob("*.safetensors")
    assert len(said) == 1 and str(kept.parent) in said[0]
    again = taught("--seed", "7")[0]
    assert learn_arithmetic(again, args, said.append) is None and len(said) == 1
    pairs = zip(first.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    kept.write_bytes(kept.read_bytes()[:1000])  # cut off: made anew
    assert learn_arithmetic(taught()[0], args, said.append) > 0
    assert learn_arithmetic(taught()[0], args, said.append) is None
    assert learn_arithmetic(taught()[0], replace(args, max_prime=31), said.append) is None
    assert learn_arithmetic(taught()[0], replace(args, min_prime=7), said.append) > 0
    assert len(list(cache.rglob("*.safetensors"))) == 2


def test_a_cache_that_cannot_be_written_is_said(cache):
    cache.write_text("a file, where the folder would be")
    said = []
    policy, _, args = taught()
    assert learn_arithmetic(policy, args, said.append) > 0
    assert said[1].startswith("its arithmetic is not kept: ")


def test_larger_primes_are_refused(capsys):
    from model import train

    assert train.main([*SHORT, "--max-prime", "67", "--quiet"]) == 2
    assert capsys.readouterr().err.strip() == (
        "--max-prime 67: must be at most 61 for --model reasoner, which has words for smaller numbers only"
    )
    with pytest.raises(PolicyError):
        build_reasoner(67)


def test_it_plans_as_a_small_policy():
    from model.plan.plan import plan

    text, fits = plan(parse_args([*SHORT, "--plan"], language_of=language))
    assert fits and "268,704 parameters" in text


@pytest.mark.slow
def test_a_run_resumes_to_the_bit(tmp_path):
    flags = [
        *SHORT,
        "--batch-size",
        "4",
        "--n-attempts",
        "2",
        "--eval-every",
        "2",
        "--max-answer-tokens",
        "24",
    ]
    whole, half = tmp_path / "whole", tmp_path / "half"
    done_here(*flags, "--total-steps", "4", "--run-dir", str(whole))
    done_here(*flags, "--total-steps", "2", "--run-dir", str(half))
    done_here("--resume", "--run-dir", str(half), "--total-steps", "4")
    weights = "checkpoints/step_000004/model.safetensors"
    assert (whole / weights).read_bytes() == (half / weights).read_bytes()


def test_the_committed_study_says_that_it_learns_what_was_held_out():
    """The logs of the arms: each run of self answers more of the held-out problems at its end than at
    step 0, beyond both 95% intervals."""
    runs = [
        run for run in load_runs(ROOT / "diagrams/reasoner.jsonl.gz") if run.condition == "self"
    ]
    assert len(runs) == 10
    for run in runs:
        first, last = run.curve[2][[0, -1]]
        asked = 3 * 132  # of each task about so many
        assert wilson_interval(first, asked)[1] < wilson_interval(last, asked)[0]
        assert run.args["held_out"] == 0.25
