"""`tests/benchmarks/gpu_check.py` without a GPU. Oracles: names that torch's kernels have, by hand; parts
that fail in each way; a real run of the small sizes; tolerances of float32."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from torch.autograd import DeviceType

from constants import CARDS, ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu_check
from gpu.attention import CUDNN, EFFICIENT, FLASH, MATH, kind_of_choice, kind_of_kernel
from gpu.bench import OutOfTime, Skipped, flattened, planned_card
from gpu.speed import counted
from gpu_check import GpuCheckArgs, table


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::_scaled_dot_product_efficient_attention", EFFICIENT),
        ("aten::_scaled_dot_product_efficient_attention_backward", EFFICIENT),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", FLASH),
        ("aten::_scaled_dot_product_cudnn_attention_backward", CUDNN),
        ("aten::_scaled_dot_product_attention_math", MATH),
        ("aten::scaled_dot_product_attention", None),
        ("aten::_fused_sdp_choice", None),
    ],
)
def test_what_torch_chose_is_told_by_the_operation(operation, kind):
    assert kind_of_choice(operation) == kind


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel", EFFICIENT),
        ("fmha_cutlassB_bf16_aligned_128x64_k128_dropout_sm80", EFFICIENT),
        ("void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>", FLASH),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128", CUDNN),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", None),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float>", None),
    ],
)  # fmt: skip
def test_whose_attention_a_kernel_is_is_told_by_its_name(kernel, kind):
    assert kind_of_kernel(kernel) == kind


def test_a_card_is_known_by_its_makers_name():
    names = {
        ("NVIDIA H100 80GB HBM3", 79.1): "h100-80gb",
        ("NVIDIA A100-SXM4-80GB", 79.3): "a100-80gb",
        ("NVIDIA A100-SXM4-40GB", 39.4): "a100-40gb",
        ("NVIDIA GeForce RTX 4090", 23.6): "rtx4090-24gb",
        ("Tesla T4", 14.6): None,
    }
    assert {name: planned_card(*name) for name in names} == names
    assert {card for card in names.values() if card} <= CARDS.keys()


def test_what_a_trace_counts():
    def event(name: str, device=DeviceType.CPU, microseconds=0.0):
        span = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(name=name, device_type=device, time_range=span)

    found = counted([
        event("aten::mm"), event("cudaLaunchKernel"), event("cudaLaunchKernelExC"), event("aten::item"),
        event("cudaMemcpyAsync"), event("cudaStreamSynchronize"),
        event("sm90_gemm", DeviceType.CUDA, 700.0), event("Memcpy DtoH", DeviceType.CUDA, 300.0),
    ])  # fmt: skip
    assert list(found.values()) == [2, 2, 1, 1, 1.0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--only", "decode,speed"],
            "--only decode,speed: must be parts among versions, attention, ",
        ),
        (["--skip", ""], "--skip : must be parts among versions, "),
        (["--only", "step", "--skip", "step"], "--skip step: must leave a part that runs"),
        (["--device", "gpu"], "--device gpu: must be auto or cpu or cuda"),
        (["--seconds", "0"], "--seconds 0: must be an integer from 1 to 3600"),
        (["--output", "/no/such/file"], "--output /no/such/file: must be in a folder that exists"),
    ],
)
def test_a_wrong_flag_is_one_sentence(argv, said, capsys):
    assert gpu_check.main(argv) == 2
    printed, complained = capsys.readouterr()
    assert printed == "" and complained.startswith(said) and len(complained.splitlines()) == 1


def test_parts_are_chosen_in_order():
    assert GpuCheckArgs(only="step,versions").parts == ["versions", "step"]
    assert GpuCheckArgs(skip="smollm2,checkpoint").parts == list(gpu_check.PARTS)[:-2]


def fails(bench) -> None:
    bench.say(1.0, "rows", "8")
    raise ValueError("no\nsuch thing")


def hangs(bench) -> None:
    bench.say(1.0, "rows", "8")
    time.sleep(100)


def dies(bench) -> None:
    bench.say(1.0, "rows", "8")
    os._exit(9)


def skips(bench) -> None:
    bench.say(1.0, "rows", "8")
    raise Skipped("no such card")


def takes_too_long(bench) -> None:
    bench.say(1.0, "rows", "8")
    raise OutOfTime


def is_wrong(bench) -> None:
    bench.say(1.0, "rows", "8")
    bench.require(False, "rows", otherwise="too many")


@pytest.mark.parametrize(
    ("part", "status", "reason"),
    [
        (fails, "failed", "ValueError: no"),
        (hangs, "failed", "did not end in 1 seconds"),
        (dies, "failed", "its process ended with 9"),
        (skips, "skipped", "no such card"),
        (takes_too_long, "out of time", "after 1 seconds"),
        (is_wrong, "wrong", "rows: too many"),
    ],
)
def test_a_part_that_does_not_end_well_leaves_what_it_has(part, status, reason, monkeypatch):
    """And the rest goes on, since nothing is raised here."""
    monkeypatch.setitem(gpu_check.PARTS, "decode", part)
    monkeypatch.setattr(gpu_check, "GRACE", 0.0)
    monkeypatch.setattr(gpu_check, "CLOSING", 1.0)
    record, saved = {}, []
    args = GpuCheckArgs(device="cpu", seconds=1)
    context = multiprocessing.get_context("fork")
    gpu_check.run("decode", args, context, record, lambda: saved.append(json.dumps(record)))
    assert (record["status"], record["reason"]) == (status, reason)
    assert dict(flattened(record["results"]))["rows", "8"] == 1.0
    assert json.loads(saved[0])["results"] == {"rows": {"8": 1.0}}
    assert json.loads(saved[-1])["status"] == status
    assert f"| decode | {record['seconds']} s | {status}: {reason} |" in table({"decode": record})


@pytest.mark.slow
def test_the_half_without_a_gpu_runs(tmp_path):
    """A real run. What is a GPU's alone says so, and all else is done."""
    output = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--device", "cpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(output)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(output.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == list(gpu_check.PARTS)
    for name, part in parts.items():
        gpu_alone = name in ("memory", "smollm2")
        wanted = ("skipped", "needs a GPU") if gpu_alone else ("done", "")
        assert (part["status"], part["reason"]) == wanted, name
        assert bool(part["results"]) is not gpu_alone and part["seconds"] >= 0
    found = {name: dict(flattened(part["results"])) for name, part in parts.items()}

    # float32 against float64: a step of 2**-24 in each of some thousands of operations.
    for engine in ("plain", "shared"):
        where = "cpu", "float32", f"{engine}, from float64"
        assert found["exact"][(*where, "largest, nats")] < 1e-4
        assert found["exact"][(*where, "gradient, of its length")] < 1e-4
    for decoder in ("eager", "graph"):
        share = f"{decoder}, share of tokens as plain samples them"
        assert found["exact"]["cpu", "float32", share] == 1.0
    uses = {name[2] for name in found["attention"] if name[:2] == ("by default", "eager")}
    assert uses == {"prompts and updates read", "a decoded token", "an update's gradient"}
    assert found["decode"]["graph", "16 rows", "ms a token"] > 0
    # By hand: 3 x 2 proposals, 2 attempts at each, and 3 x 2 answers to train on; all of 8 tokens.
    for name in ("step 2, eager", "step 4, graph"):
        assert found["step"][name, "completions"] == 6 + 6 * 2 + 6
        assert found["step"][name, "tokens"] == 24 * 8
    assert found["signal"]["exit status when stopped",] == 128 + 15
    assert f"| decode | {parts['decode']['seconds']} s | done |" in done.stdout
