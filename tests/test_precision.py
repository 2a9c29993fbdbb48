"""In which type factors are. Oracles: a table by hand, files of real runs, and how far two types are from
each other."""

import json

import pytest
import torch
from helpers.chat_models import save_model
from test_cli import command, rows

from model.args import AZRArgs, parse_args
from model.plan.memory import AUTOCAST, FLOAT32
from model.plan.plan import precision_of, read_model
from utils.precision import leave_unwritten_memory, precision_on

WIDE, NARROW = "float32", "bfloat16"


@pytest.mark.parametrize("amx, avx", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("wanted", ["auto", WIDE, NARROW])
@pytest.mark.parametrize("is_small", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_what_auto_takes(monkeypatch, kind, is_small, wanted, amx, avx):
    """Mocks: what torch says that the CPU has."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx)
    can = kind == "cuda" or amx or avx
    expected = wanted if wanted != "auto" else NARROW if can and not is_small else WIDE
    assert precision_on(kind, wanted, is_small) == expected


def test_torch_still_says_what_a_cpu_has():
    assert all(
        isinstance(getattr(torch.cpu, name)(), bool)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


@pytest.mark.slow
def test_a_run_in_bfloat16_differs_by_its_rounding_and_keeps_float32_weights(tmp_path):
    """The sampler and the update round apart, by 2^-9 of a number; in float32 by 2^-24. config.json has the
    type, and a run of `auto` is one of the two."""
    save_model(tmp_path / "model")
    found = {}
    for precision in (WIDE, NARROW, "auto"):
        result = command(
            "--model", "model", "--run-dir", precision, "--total-steps", "1", "--batch-size", "2",
            "--n-references", "1", "--max-answer-tokens", "5", "--max-proposal-tokens", "6", "--max-prime", "13",
            "--eval-problems", "2", "--precision", precision, cwd=tmp_path,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        config = json.loads((tmp_path / precision / "config.json").read_text())
        assert f"on cpu in {config['precision']}," in result.stdout
        last = rows(tmp_path / precision / "metrics.jsonl")[-1]
        found[precision] = config["precision"], last["sampling/logp_difference_mean"]
    assert [found[name][0] for name in (WIDE, NARROW)] == [WIDE, NARROW]
    assert 20 * found[WIDE][1] < found[NARROW][1] < 1e-3  # logits of random weights are all about 0
    assert found["auto"] == found[found["auto"][0]]
    checkpoint = tmp_path / NARROW / "checkpoints" / "step_000001" / "config.json"
    assert json.loads(checkpoint.read_text())["dtype"] == WIDE


def test_the_plan_is_of_the_type_that_is_asked_for():
    for flags, expected in (([], AUTOCAST), (["--precision", WIDE], FLOAT32)):
        args = parse_args(["--plan", *flags])
        assert precision_of(args, *read_model(args)) is expected


def test_memory_without_values_is_left_as_it_is():
    """What was freed last is found again, not the NaN that torch would write where algorithms must be
    deterministic."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True  # whatever earlier tests left
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(4096).isnan().all()
        leave_unwritten_memory()
        torch.full((4096,), 7.0)
        assert not torch.empty(4096).isnan().all()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before


def test_another_type_is_refused():
    with pytest.raises(ValueError, match="^--precision half: must be auto or float32 or bfloat16$"):
        AZRArgs(precision="half")
