"""One token at a time: rows that part, change places or stay, and the choice of a token. Oracles: each
sequence read alone, numbers by hand."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from custom_types import Response
from model.engine.decoding import prefill
from model.engine.sampling import sample_tokens
from model.inference import generate
from model.policy.tiny import tiny_tokenizer
from utils.string_formatting import decode

PAD = 0


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    """Random, in float64, so that only a real mistake shows in a difference."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    return Qwen2ForCausalLM(config).double().eval()


@pytest.mark.parametrize(
    "parents",
    [
        (0, 1, 2),  # every row goes on
        (2, 0, 1),  # as many, but in another order
        (0, 1, 1),  # as many: one has left, another has parted
        (2, 2, 2),
        (1, 2),  # fewer
        (0, 0, 1, 2, 2),  # more
    ],
)
@torch.no_grad()
def test_a_row_becomes_what_its_parent_was_and_a_token(model, parents):
    """Of three prompts of different lengths, twice in a row: each row's logits are those of its whole
    sequence alone."""
    sequences = [(5, 6), (7, 8, 9, 10), (11,)]
    logits, decoding = prefill(model, sequences, PAD, 3)
    for step in range(3):
        for row, sequence in zip(logits, sequences, strict=True):
            alone = model(torch.tensor([sequence])).logits[0, -1]
            torch.testing.assert_close(row, alone, rtol=0, atol=1e-9)
        if step < 2:
            places = parents if step == 0 else tuple(reversed(range(len(sequences))))
            tokens = [20 + 5 * step + number for number in range(len(places))]
            sequences = [sequences[p] + (t,) for p, t in zip(places, tokens, strict=True)]
            logits = decoding.extend(torch.tensor(places), torch.tensor(tokens))


@torch.no_grad()
def test_every_row_draws_its_own_numbers_one_for_each_token(model):
    """Token by token and row by row, by the whole logits: 24 rows, which part, and leave the model when
    they have ended."""
    prompts, stops, most = [(5, 6), (7, 8, 9, 10), (11,)] * 8, tuple(range(1, 12)), 10
    responses = generate(
        model, prompts, max_new_tokens=most, temperature=0.8, stop_ids=stops, pad_id=PAD, max_rows=64,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    numbers = torch.rand((24, most), generator=torch.Generator().manual_seed(2))
    lengths = set()
    for prompt, own, response in zip(prompts, numbers, responses, strict=True):
        ids: list[int] = []
        while len(ids) < most and not (ids and ids[-1] in stops):
            logits = model(torch.tensor([[*prompt, *ids]])).logits[:, -1]
            ids.append(sample_tokens(logits, 0.8, own[len(ids)][None])[0].item())
        assert list(response.ids) == ids and response.finished == (ids[-1] in stops)
        lengths.add(len(ids))
    assert len(lengths) > 3


def parting(prompts, responses) -> int:
    """By hand: after how many tokens no two responses that go on are the same so far."""
    for step in range(1, 99):
        going = [
            (p, r.ids[:step])
            for p, r in zip(prompts, responses, strict=True)
            if len(r.ids) > step or not r.finished
        ]
        if len(set(going)) == len(going):
            return step
    raise AssertionError


def test_rows_are_compared_until_they_have_parted(model, monkeypatch):
    """Comparing costs a GPU a sort and a wait for each token. Negative control: greedy ones never part."""
    prompts, compared = [(5, 6), (7, 8, 9, 10), (11,)] * 8, []
    real = torch.unique
    monkeypatch.setattr(
        torch, "unique", lambda *args, **more: compared.append(1) or real(*args, **more)
    )

    def run(temperature):
        compared.clear()
        return generate(
            model, prompts, max_new_tokens=10, temperature=temperature, stop_ids=(1,), pad_id=PAD, max_rows=64,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip

    responses = run(1.0)
    assert len(compared) == parting(prompts, responses) < 9
    run(0.0)
    assert len(compared) == 9


@pytest.mark.parametrize("every", [2, 8])
def test_how_often_the_ended_are_counted_changes_no_response(model, monkeypatch, every):
    """They are counted at each token on a CPU; those that have ended stay longer otherwise."""
    prompts, widths, forward = [(5, 6), (7, 8, 9, 10), (11,)] * 8, [], model.model.forward

    def run():
        widths.clear()
        return generate(
            model, prompts, max_new_tokens=20, temperature=1.0, stop_ids=tuple(range(1, 9)), pad_id=PAD,
            max_rows=64, generator=torch.Generator().manual_seed(2),
        )  # fmt: skip

    def counted(input_ids, **kwargs):
        widths.append(len(input_ids))
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.model, "forward", counted)
    wanted, fewest = run(), sum(widths)
    monkeypatch.setattr("model.engine.decoding.COUNT_EVERY", {"cpu": every})
    found = run()
    assert sum(widths) > fewest
    assert [r.ids for r in found] == [r.ids for r in wanted]
    for own, other in zip(found, wanted, strict=True):
        assert own.logprobs == pytest.approx(other.logprobs, abs=1e-6)


@torch.no_grad()
def test_one_mask_serves_all_tokens_and_layers(model, monkeypatch):
    """What attention gets: no mask where no row is padded; else numbers of the model's type, in rows of a
    multiple of 8, which are the same memory for every token."""
    masks, forward = [], model.model.forward

    def seen(attention_mask, **kwargs):
        masks.append(attention_mask)
        return forward(attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(model.model, "forward", seen)
    tokens = torch.tensor([20, 21])
    for prompts, padded in (([(5, 6), (7, 8)], False), ([(5, 6, 7), (8,)], True)):
        _, decoding = prefill(model, prompts, PAD, 6)
        masks.clear()
        for _ in range(3):
            decoding.extend(None, tokens)
        if not padded:
            assert masks == [None] * 3
            continue
        assert len({mask.data_ptr() for mask in masks}) == 1
        for width, mask in enumerate(masks, 4):
            assert mask.dtype is torch.float64 and mask.stride(0) % 8 == 0
            assert mask[0, 0, 0].tolist() == [0.0] * width
            assert mask[1, 0, 0].tolist() == [-torch.inf] * 2 + [0.0] * (width - 2)
        decoding.extend(torch.tensor([0]), tokens[:1])  # the row that was padded has left
        assert masks[-1] is None


def test_the_likeliest_token_is_sure_at_temperature_0():
    tokens, logprobs = sample_tokens(torch.tensor([[0.1, 0.3, 0.2]]), 0, torch.tensor([0.0]))
    assert tokens.tolist() == [1] and logprobs.tolist() == [0.0]


def test_a_uniform_number_that_was_rounded_up_to_one_picks_a_possible_token():
    """1 - 2^-30 is 1 in float32. Of two tokens of probability 1/2 before an impossible one it picks the
    second; so it does where the probabilities add up to a little less than 1, or more."""
    uniform = torch.tensor([1 - 2.0**-30])
    assert uniform.item() == 1
    assert sample_tokens(torch.tensor([[0.0, 0.0, -torch.inf]]), 1.0, uniform)[0].tolist() == [1]
    totals = set()
    for seed in range(50):
        logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
        logits[0, 40:] = -torch.inf
        totals.add(logits.log_softmax(-1).exp().cumsum(-1)[0, -1].item())
        token, logprob = sample_tokens(logits, 1.0, uniform)
        assert token.item() < 40 and logprob.isfinite().all()
    assert min(totals) < 1 < max(totals)


def test_the_first_id_without_a_word_is_unreadable():
    """Ids up to len - 1 are the tokenizer's; a model may have more."""
    tokenizer = tiny_tokenizer(13)
    last = len(tokenizer) - 1
    ids = [(last,), (last + 1,), (5, last + 1)]
    texts = decode(tokenizer, [Response(own, (0.0,) * len(own), finished=False) for own in ids])
    assert texts[0] == tokenizer.decode([last]) != "" and texts[1:] == ["\ufffd", "\ufffd"]


def test_the_id_that_ends_a_response_is_no_part_of_its_text():
    """Where it has ended; the same ids of one that has not are all text."""
    tokenizer = tiny_tokenizer(13)
    ids = tuple(tokenizer("7", add_special_tokens=False)["input_ids"]) + (tokenizer.eos_token_id,)
    ended, cut = (Response(ids, (0.0,) * len(ids), finished) for finished in (True, False))
    assert decode(tokenizer, [ended, cut]) == ["7", "7" + tokenizer.eos_token]
