"""Prompts in, what follows them and a cache for each row out: what prompts share is computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from utils.prefix_tree import fill_rows, pack, row_length

MOST_POSITIONS = 4096  # of a row of packed prompts


def prefill(model, prompts: Sequence[tuple[int, ...]], pad_id: int, max_new_tokens: int):
    """Logits (n, vocabulary) of what follows each of n prompts, the n rows' cache, and which
    positions of it (n, width) hold a row's tokens; padded on the left."""
    device = model.device
    distinct = list(dict.fromkeys(prompts))
    rows = fill_rows(distinct, row_length(distinct, MOST_POSITIONS))
    packed = pack([[distinct[index] for index in row] for row in rows], pad_id)
    output = model.base_model(
        input_ids=packed.input_ids.to(device),
        attention_mask=packed.attention_mask.to(device),
        position_ids=packed.position_ids.to(device),
        use_cache=True,
    )
    order = [distinct[index] for row in rows for index in row]
    path_of = dict(zip(order, packed.paths, strict=True))
    longest = max(map(len, distinct))
    padded = [[0] * (longest - len(prompt)) + path_of[prompt] for prompt in prompts]
    paths = torch.tensor(padded, device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask = torch.arange(longest, device=device)[None] >= longest - lengths[:, None]
    cache = output.past_key_values
    for index, layer in enumerate(cache.layers):  # one at a time, so that the packed one is freed
        cache.layers[index] = _RowLayer(layer, paths, max_new_tokens)
    hidden = output.last_hidden_state.flatten(0, 1)[paths[:, -1]]
    return model.get_output_embeddings()(hidden), cache, mask


class _RowLayer(DynamicLayer):
    """A layer's keys and values (rows, heads, time, dim) of rows that stand at `paths` (rows, width)
    in packed ones, with room for more: growing by copies costs more than a small model's forward."""

    def __init__(self, packed: DynamicLayer, paths: Tensor, more: int):
        super().__init__()
        self.lazy_initialization(packed.keys, packed.values)
        self._rooms = [_row_tensor(kept, paths, more) for kept in (packed.keys, packed.values)]
        self._show(paths.shape[1])

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        """Take in the next tokens' keys and values; those of all tokens so far."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def _show(self, time: int) -> None:
        self.keys, self.values = (room[:, :, :time] for room in self._rooms)


def _row_tensor(packed: Tensor, paths: Tensor, more: int) -> Tensor:
    _, heads, _, size = packed.shape
    rows, width = paths.shape
    kind = packed.device.type
    # Attention would cast to this for every token; transformers keeps its cache in float32.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else packed.dtype
    room = packed.new_empty(rows, heads, width + more, size, dtype=dtype)
    room[:, :, :width] = packed.transpose(1, 2).flatten(0, 1)[paths].transpose(1, 2)
    return room
