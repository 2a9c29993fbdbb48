"""Files of tensors. Oracle: the safetensors library, which reads them."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from utils.tensor_file import NAMES, save_tensors

ODD = {
    "": torch.arange(3),
    "a name, \"quoted\" — é/1": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "scalar": torch.tensor(7.5),
    "empty": torch.zeros(0, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "part": torch.arange(10)[2:7:2],
    "bytes": torch.arange(5, dtype=torch.uint8),
    "trained": torch.nn.Parameter(torch.ones(3)),
    **{f"type {dtype}": torch.tensor([1, 0, 1]).to(dtype) for dtype in NAMES},
}  # fmt: skip


@pytest.mark.parametrize("names", [[], ["bytes"], [*ODD]])
def test_the_library_reads_what_was_written(tmp_path, names):
    tensors = {name: ODD[name] for name in names}
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert save_tensors(tensors, ours) == hashlib.sha256(ours.read_bytes()).hexdigest()
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, theirs)
    assert ours.stat().st_size == theirs.stat().st_size
    found = load_file(ours)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value.detach())


def test_a_type_that_the_format_has_no_name_for_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="complex64"):
        save_tensors({"a": torch.zeros(1, dtype=torch.complex64)}, tmp_path / "file")
