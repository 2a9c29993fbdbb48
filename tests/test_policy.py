"""`tiny`: its tokenizer and its warm start. Oracles: a round trip through files, a binomial bound."""

import math

import torch
from transformers import AutoTokenizer

from custom_types import TASKS, Verdict
from model.eval.evaluator import Evaluator, evaluation_problems
from model.policy.tiny import build_tiny, tiny_tokenizer
from prime_inversion import guess_rate


def test_the_tiny_tokenizer_knows_every_integer_of_its_range_as_one_token():
    tokenizer = tiny_tokenizer(617)
    ids = [tokenizer(str(n), add_special_tokens=False)["input_ids"] for n in range(618)]
    assert len({tuple(one) for one in ids}) == 618 and {len(one) for one in ids} == {1}
    # A larger number is no word: it falls apart into numbers that are.
    assert tokenizer.convert_ids_to_tokens(tokenizer("618")["input_ids"]) == ["61", "8"]


def test_the_warm_start_teaches_no_inverses(warm_tiny):
    """Sampled at temperature 1, 20 answers a problem. If answers are independent of the problem, as
    the warm start's are, the number correct is a sum of Bernoullis with the guess rates; it may
    exceed its mean by 4 standard deviations, a false alarm in 30,000 runs for each task."""
    policy, renderer, args = warm_tiny
    evaluator = Evaluator(policy, renderer, args)
    problems = [problem for problem in evaluation_problems(args) for _ in range(20)]
    verdicts = [
        evaluator.judge(answer).verdict for answer in evaluator.solve(problems, temperature=1.0)
    ]
    for task in TASKS:
        own = [(p, v) for p, v in zip(problems, verdicts, strict=True) if p.task is task]
        chances = [guess_rate(problem, args.min_prime, args.max_prime) for problem, _ in own]
        mean, variance = sum(chances), sum(c * (1 - c) for c in chances)
        correct = sum(verdict is Verdict.CORRECT for _, verdict in own)
        assert correct <= mean + 4 * math.sqrt(variance)
        malformed = sum(verdict is Verdict.MALFORMED for _, verdict in own)
        assert malformed < 0.05 * len(own)


def test_the_tiny_tokenizer_survives_its_folder(tmp_path):
    """Beside the model's config, by which transformers chooses another tokenizer class."""
    policy = build_tiny(31, 0)
    tokenizer = policy.tokenizer
    policy.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    text = r"5..31 propose x like x * 17 ≡ 1 (mod 29): \boxed{2 * y ≡ 1 (mod 31)}"
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert len(loaded) == len(tokenizer) == policy.model.config.vocab_size
    assert (loaded.eos_token_id, loaded.pad_token_id) == policy.stop_ids + (policy.pad_id,)


def test_tiny_is_float32_small_and_a_function_of_its_seed():
    first, again, other = (build_tiny(13, seed).model for seed in (0, 0, 1))
    assert sum(weight.numel() for weight in first.parameters()) < 200_000
    assert {weight.dtype for weight in first.parameters()} == {torch.float32}
    pairs = [zip(first.parameters(), model.parameters(), strict=True) for model in (again, other)]
    assert all(torch.equal(a, b) for a, b in pairs[0])
    assert not all(torch.equal(a, b) for a, b in pairs[1])
