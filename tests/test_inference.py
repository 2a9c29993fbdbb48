"""`generate` and `token_logprobs`. Oracles: hand-made logits, transformers' own generate and logits,
batched against one by one, and known distributions."""

from dataclasses import replace

import pytest
import torch
from helpers.trainers import relative
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from buffer.base_buff import collate, microbatches
from custom_types import Example, Problem, Role, Rollout, TaskType
from model.engine.likelihood import product
from model.engine.sampling import sample_tokens
from model.engine.shared import SharedEngine
from model.inference import generate, slices, token_logprobs
from utils.mocks.mock_transformer import MockConfig, MockTransformer

STOP, PAD = 1, 0


@pytest.fixture(scope="module")
def qwen() -> Qwen2ForCausalLM:
    """A small random Qwen2 in float64, so that only a real mistake shows in a difference. Its
    generation config carries the settings of Qwen2.5-Instruct, which must not take part."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.5, tie_word_embeddings=True, eos_token_id=STOP, pad_token_id=PAD,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).double()
    settings = dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)
    model.generation_config.update(**settings)
    return model


def prompts(n: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [tuple(torch.randint(2, 50, (k,), generator=generator).tolist()) for k in lengths]


def run(model, rows, temperature=1.0, seed=0, max_rows=64, n=6, stop_ids=(STOP,)):
    generator = torch.Generator().manual_seed(seed)
    return generate(
        model, rows, max_new_tokens=n, temperature=temperature, stop_ids=stop_ids, pad_id=PAD,
        max_rows=max_rows, generator=generator,
    )  # fmt: skip


def batch(rows, width=None, side="right"):
    """ids, attention mask and response mask of (prompt, response) rows, by hand."""
    width = width or max(len(p) + len(r) for p, r in rows)
    ids, attention, response = [], [], []
    for prompt, answer in rows:
        pad = width - len(prompt) - len(answer)
        left, right = (pad, 0) if side == "left" else (0, pad)
        ids.append([PAD] * left + list(prompt) + list(answer) + [PAD] * right)
        attention.append([False] * left + [True] * (width - pad) + [False] * right)
        response.append([False] * (left + len(prompt)) + [True] * len(answer) + [False] * right)
    return torch.tensor(ids), torch.tensor(attention), torch.tensor(response)


def example(prompt, answer) -> Example:
    problem = Problem(TaskType.DEDUCTION, 2, 4, 7)
    zeros = (0.0,) * len(answer)
    return Example(
        Rollout(Role.SOLVER, problem.task, problem, prompt, answer, zeros, "", True), 1.0
    )


def mock(table) -> MockTransformer:
    model = MockTransformer(MockConfig(vocab_size=len(table))).double()
    model.table.data.copy_(torch.tensor(table))
    return model


def test_logprobs_of_hand_made_logits_over_three_tokens():
    # After token 0 the logits are 0, ln 2, ln 5: probabilities 1/8, 2/8, 5/8. At temperature 1/2 the
    # logits double, so the odds square: 1/30, 4/30, 25/30.
    odds = torch.tensor([1.0, 2.0, 5.0])
    model = mock([odds.log().tolist(), [0.0] * 3, [0.0] * 3])
    ids, attention, response = batch([((0,), (2,)), ((0,), (1,)), ((0,), (0,))])
    for temperature, expected in ((1.0, odds / 8), (0.5, odds**2 / 30)):
        logprobs, entropy = token_logprobs(model, ids, attention, response, temperature)
        assert logprobs[:, 1].exp().tolist() == pytest.approx(expected.flip(0).tolist(), rel=1e-6)
        assert logprobs[:, 1].exp().sum().item() == pytest.approx(1, rel=1e-6)
        by_definition = -(expected * expected.log()).sum().item()
        assert entropy[:, 1].tolist() == pytest.approx([by_definition] * 3, rel=1e-6)
        assert logprobs[:, 0].tolist() == entropy[:, 0].tolist() == [0, 0, 0]


def test_logprobs_equal_those_of_the_full_logits(qwen):
    rows = [(p, r) for p, r in zip(prompts(7), prompts(20)[13:], strict=True)]
    ids, attention, response = batch(rows, width=20)
    logprobs, entropy = token_logprobs(qwen, ids, attention, response, 0.7)
    for row, (prompt, answer) in enumerate(rows):
        alone = torch.tensor([prompt + answer])
        full = (qwen(alone).logits[0] / 0.7).log_softmax(-1)
        for t in range(len(prompt), len(prompt) + len(answer)):
            assert logprobs[row, t].item() == pytest.approx(
                full[t - 1, alone[0, t]].item(), abs=2e-6
            )
            by_definition = -(full[t - 1].exp() * full[t - 1]).sum().item()
            assert entropy[row, t].item() == pytest.approx(by_definition, abs=1e-9)
    assert (logprobs[~response] == 0).all() and (entropy[~response] == 0).all()


def test_left_and_right_padding_score_the_same(qwen):
    rows = [(p, r) for p, r in zip(prompts(6), prompts(12)[6:], strict=True)]
    scores = []
    for side in ("left", "right"):
        ids, attention, response = batch(rows, width=24, side=side)
        scores.append(token_logprobs(qwen, ids, attention, response, 1.0)[0][response])
    torch.testing.assert_close(*scores, atol=1e-6, rtol=0)


def test_without_the_mask_the_scores_are_off(qwen):
    """Negative control: the padding test above can fail."""
    ids, attention, response = batch([(prompts(1)[0], (5, 6))], width=16, side="left")
    masked, _ = token_logprobs(qwen, ids, attention, response, 1.0)
    unmasked, _ = token_logprobs(qwen, ids, torch.ones_like(attention), response, 1.0)
    assert (masked - unmasked)[response].abs().max() > 0.01


def test_chunked_logits_change_neither_value_nor_gradient(qwen, monkeypatch):
    rows = [((3, 4), (5, 6, 7)), ((8,), (9, 10))]
    packed = collate([[example(*row)] for row in rows], PAD)
    results, sizes = [], []
    monkeypatch.setattr(
        "model.engine.likelihood.product",
        lambda hidden, *others: sizes.append(len(hidden)) or product(hidden, *others),
    )
    for elements, parts in ((2**27, [5]), (100, [2, 2, 1])):  # 100: two tokens of 50 words
        monkeypatch.setattr("model.engine.shared.LOGIT_CHUNK_ELEMENTS", elements)
        sizes.clear()
        logprobs, entropy, bonus = SharedEngine(qwen, (STOP,), PAD).score(packed, 1.0)
        assert sizes == parts
        gradient = torch.autograd.grad((logprobs + 0.3 * bonus).sum(), list(qwen.parameters()))
        results.append([logprobs.detach(), entropy.detach(), *gradient])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-6, atol=1e-9)


def test_shared_prompts_change_neither_value_nor_gradient(qwen):
    """Packed rows of several prompts against one row a response, in float64; responses to one prompt
    of different lengths, and two that begin alike. Negative control: without the mask between
    responses the scores are off."""
    answers = [(5, 6, 7), (5, 9), (8,), (3, 3, 3, 1)]
    examples = [example(p, r) for p in prompts(12) for r in answers[: 1 + len(p) % 4]]
    (rows,) = microbatches(examples, 10_000)
    order = [one.rollout for row in rows for one in row]
    assert len(rows) < len(set(prompts(12))) < len(order)
    packed = collate(rows, PAD)
    ids, mask, response = batch([(one.prompt_ids, one.response_ids) for one in order])

    def gradient(values):
        logprobs, entropy = values
        score = (logprobs.sum(1) * torch.arange(1, len(order) + 1)).sum() + 0.3 * entropy.sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(score, list(qwen.parameters()))])

    engine = SharedEngine(qwen, (STOP,), PAD)
    logprobs, entropy, bonus = engine.score(packed, 0.7)
    assert torch.equal(bonus, entropy)
    shared = logprobs, bonus  # the entropy itself has no gradient there
    plain = token_logprobs(qwen, ids, mask, response, 0.7)
    for ours, theirs in zip(shared, plain, strict=True):
        torch.testing.assert_close(ours[packed.response_mask], theirs[response], rtol=0, atol=1e-9)
        assert (ours[~packed.response_mask] == 0).all()
    ours, theirs = gradient(shared), gradient(plain)
    assert relative(ours, theirs) < 1e-6

    blurred = torch.ones_like(packed.attention_mask).tril()
    off = engine.score(replace(packed, attention_mask=blurred), 0.7).logprobs
    assert (off - shared[0]).abs().max() > 0.01


def test_a_response_at_position_zero_is_refused(qwen):
    ids = torch.tensor([[3, 4]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with pytest.raises(ValueError, match="prompt"):
        token_logprobs(qwen, ids, mask, mask, 1.0)


def test_greedy_equals_transformers_generate(qwen):
    rows = prompts(9)
    ours = run(qwen, rows, temperature=0.0, max_rows=4)
    for prompt, response in zip(rows, ours, strict=True):
        theirs = qwen.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=6, repetition_penalty=1.0,
            temperature=None, top_p=None, top_k=None,
        )  # fmt: skip
        assert list(response.ids) == theirs[0, len(prompt) :].tolist()


def test_batched_equals_one_by_one_and_slices_do_not_matter(qwen):
    rows = prompts(12) + prompts(3)  # three prompts twice: prefilled once, sampled apart
    together = run(qwen, rows)
    for max_rows in (1, 5, 7):
        apart = run(qwen, rows, max_rows=max_rows)
        assert [r.ids for r in apart] == [r.ids for r in together]
    repeated = {rows[i]: (together[i].ids, together[12 + i].ids) for i in range(3)}
    assert any(a != b for a, b in repeated.values())


@pytest.mark.parametrize("count, most, sizes", [
    (864, 384, [288, 288, 288]), (864, 432, [432, 432]), (864, 863, [432, 432]), (864, 864, [864]),
    (10, 4, [3, 3, 4]), (3, 1, [1, 1, 1]), (1, 9, [1]), (0, 9, []),
])  # fmt: skip
def test_slices_by_hand(count, most, sizes):
    """As few as there can be, the longest no longer than needed, each row once and in order."""
    found = slices(count, most)
    assert [rows.stop - rows.start for rows in found] == sizes
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))


def test_rows_are_one_until_they_part_and_leave_when_they_have_ended(qwen, monkeypatch):
    """Rows in the model, by hand from the responses: distinct sequences so far of the rows that are
    held, which are those that go on as soon as no more than three quarters of the held ones do."""
    counts, forward = [], qwen.model.forward

    def counted(input_ids, **kwargs):
        if input_ids.shape[1] == 1:  # not the prompts
            counts.append(len(input_ids))
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(qwen.model, "forward", counted)
    rows = prompts(4) * 8
    responses = run(qwen, rows, n=12, stop_ids=tuple(range(1, 12)))
    held, expected = list(range(32)), []
    for step in range(1, max(len(one.ids) for one in responses)):
        going = [row for row in held if len(responses[row].ids) > step]
        if len(going) <= 0.75 * len(held):
            held = going
        expected.append(len({(rows[row], responses[row].ids[:step]) for row in held}))
    assert counts == expected
    assert counts[0] < 32 and 4 < max(counts) and counts[-1] < max(counts)

    counts.clear()
    greedy = run(qwen, rows, temperature=0.0, stop_ids=(-1,))
    assert set(counts) == {4} and greedy[:4] == greedy[4:8]


def test_engine_logprobs_equal_the_training_forward(qwen):
    rows = prompts(10)
    responses = run(qwen, rows, temperature=0.7)
    ids, attention, response = batch(list(zip(rows, [r.ids for r in responses], strict=True)))
    scored, _ = token_logprobs(qwen, ids, attention, response, 0.7)
    sampled = [value for r in responses for value in r.logprobs]
    assert scored[response].tolist() == pytest.approx(sampled, abs=1e-5)


def test_stop_ids_end_a_response_and_stay_in_it():
    # Token 2 leads to 3, 3 to the stop id 1, 1 would lead on to 2: never seen.
    off = -50.0
    table = [[off] * 4 for _ in range(4)]
    table[2][3] = table[3][1] = table[1][2] = table[0][0] = 50.0
    long, short, endless = run(mock(table), [(2,), (3,), (0,)], n=4)
    assert (long.ids, long.finished) == ((3, 1), True)
    assert (short.ids, short.finished) == ((1,), True)
    assert (endless.ids, endless.finished) == ((0, 0, 0, 0), False)
    either = run(mock(table), [(2,)], n=4, stop_ids=(1, 3))[0]
    assert (either.ids, either.finished) == ((3,), True)


def test_sampling_follows_the_distribution():
    # 20,000 draws from 0.1, 0.2, 0.7: each count within 5 standard deviations, so one false alarm in
    # half a million runs; a temperature of 2 gives odds of square roots.
    logits = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    for temperature in (1.0, 2.0):
        tokens, logprobs = sample_tokens(logits, temperature, uniform)
        odds = torch.tensor([0.1, 0.2, 0.7]) ** (1 / temperature)
        expected = odds / odds.sum()
        counts = torch.bincount(tokens, minlength=3)
        bound = 5 * (20_000 * expected * (1 - expected)).sqrt()
        assert ((counts - 20_000 * expected).abs() < bound).all()
        assert logprobs.tolist() == pytest.approx(expected.log()[tokens].tolist(), abs=1e-6)


def test_impossible_tokens_are_never_drawn():
    """At both ends of the uniform interval, beside tokens of probability 0."""
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(3, 4)
    largest = 1 - 2.0**-24
    tokens, _ = sample_tokens(logits, 1.0, torch.tensor([0.0, 0.25, largest]))
    assert tokens.tolist() == [1, 1, 2]


def test_generate_leaves_the_mode_and_the_global_generator_alone(qwen):
    qwen.train()
    before = torch.get_rng_state()
    run(qwen, prompts(2))
    assert qwen.training and torch.equal(before, torch.get_rng_state())


def test_empty_cache_of_the_mock_can_be_selected():
    """The mock keeps no keys and values: `generate` must be able to copy an empty cache."""
    cache = DynamicCache()
    cache.batch_select_indices(torch.tensor([0, 0, 1]))
    assert cache.get_seq_length() == 0
