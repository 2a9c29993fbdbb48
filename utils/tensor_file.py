"""Tensors into a file of the safetensors format, which is read with that library, and its SHA-256.

`safetensors.torch.save_file` writes the same. Two things differ, which count where a state has 25 GB: what
is written is hashed at the same time, so that the file need not be read again, and one tensor at a time
is brought to the CPU.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

# How the format calls the types; in a file the widest come first, so that each tensor is aligned.
NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
ALIGNMENT = 8  # bytes: where the tensors begin is a multiple of it


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Write tensors, of any device, by name; the SHA-256 of the file, in hexadecimal digits. Raises
    OSError, and KeyError for a type that is not in `NAMES`."""
    digest = hashlib.sha256()
    with open(file, "wb") as opened, ThreadPoolExecutor(1) as beside:
        for part in _parts(tensors):
            hashed = beside.submit(digest.update, part)  # both let other threads work
            opened.write(part)
            hashed.result()
    return digest.hexdigest()


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The file, piece by piece: the length of the header with the header, and each tensor's bytes."""
    places = {dtype: place for place, dtype in enumerate(NAMES)}
    ordered = sorted(tensors.items(), key=lambda item: (places[item[1].dtype], item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        place = [end, end := end + tensor.nbytes]
        shape = list(tensor.shape)
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": place}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, tensor in ordered:
        whole = tensor.detach().cpu().contiguous().flatten()
        yield whole.view(torch.uint8).numpy().data
