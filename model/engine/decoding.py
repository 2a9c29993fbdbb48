"""Sequences in, logits of what follows them out: prompts first, then one token at a time. What prompts
share is computed once, and a row that is decoded may part into several.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from buffer.packing import fill_rows, pack

MOST_POSITIONS = 4096  # of a row of packed prompts


class Decoding:
    """Rows of a model, each at the end of its sequence. cache: their keys and values. mask:
    (rows, width) bool, which positions of the cache hold a row's tokens; padded on the left."""

    def __init__(self, model, cache: Cache, mask: Tensor):
        self._model, self.cache, self._mask = model, cache, mask
        self._positions = mask.sum(1, keepdim=True)

    def extend(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Row r becomes what row `parents[r]` was, (rows,) int64, and `tokens[r]` behind it; logits
        (rows, vocabulary) of what follows."""
        before, after = len(self._mask), len(parents)
        if before != after or (parents != torch.arange(after, device=parents.device)).any():
            self.cache.batch_select_indices(parents)
            self._mask, self._positions = self._mask[parents], self._positions[parents]
        self._mask = torch.cat([self._mask, self._mask.new_ones(after, 1)], 1)
        output = self._model(
            input_ids=tokens[:, None],
            attention_mask=self._mask.long(),
            position_ids=self._positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self._positions = self._positions + 1
        return output.logits[:, -1]


def prefill(
    model, prompts: Sequence[tuple[int, ...]], pad_id: int, more: int
) -> tuple[Tensor, Decoding]:
    """Logits (n, vocabulary) of what follows each of n prompts, and n rows that stand at their ends,
    each of which may be `more` tokens longer in the end."""
    device = model.device
    rows, _ = fill_rows(prompts, MOST_POSITIONS)
    packed = pack([[prompts[index] for index in row] for row in rows], pad_id)
    output = model.base_model(
        input_ids=packed.input_ids.to(device),
        attention_mask=packed.attention_mask.to(device),
        position_ids=packed.position_ids.to(device),
        past_key_values=DynamicCache(),  # the one a model makes would drop what lies outside a window
        use_cache=True,
    )
    order = [prompts[index] for row in rows for index in row]
    path_of = dict(zip(order, packed.paths, strict=True))
    longest = max(map(len, prompts))
    padded = [[0] * (longest - len(prompt)) + path_of[prompt] for prompt in prompts]
    paths = torch.tensor(padded, device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    mask = torch.arange(longest, device=device)[None] >= longest - lengths[:, None]
    cache = output.past_key_values
    for index, layer in enumerate(cache.layers):  # one at a time, so that the packed one is freed
        cache.layers[index] = _RowLayer(layer, paths, more)
    hidden = output.last_hidden_state.flatten(0, 1)[paths[:, -1]]
    return model.get_output_embeddings()(hidden), Decoding(model, cache, mask)


class _RowLayer(DynamicLayer):
    """A layer's keys and values (rows, heads, time, dim) of rows that stand at `paths` (rows, width)
    in packed ones, with room for more: growing by copies costs more than a small model's forward."""

    def __init__(self, packed: DynamicLayer, paths: Tensor, more: int):
        super().__init__()
        keys, values = packed.keys, packed.values
        assert keys is not None and values is not None, "a layer that has read something"
        self.lazy_initialization(keys, values)
        self._rooms = [_row_tensor(kept, paths, more) for kept in (keys, values)]
        self._show(paths.shape[1])

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        """Take in the next tokens' keys and values; those of all tokens so far."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order, one of them perhaps more than once."""
        time = self.get_seq_length()
        self._rooms = [_selected(room, indices, time) for room in self._rooms]
        self._show(time)

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


def _selected(room: Tensor, rows: Tensor, time: int) -> Tensor:
    """`room[rows]`; only its first `time` positions are read."""
    selected = room.new_empty(len(rows), *room.shape[1:])
    selected[:, :, :time] = room[:, :, :time][rows]
    return selected
