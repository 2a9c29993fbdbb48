"""Sequences in, logits of what follows them out: prompts first, then one token at a time. What prompts
share is computed once, and a row that is decoded may part into several.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from buffer.packing import fill_rows, pack
from model.engine.likelihood import OutputLayer
from model.engine.protocol import cache_name
from model.engine.sampling import Draws

MOST_POSITIONS = 4096  # of a row of packed prompts
# Tokens between two counts of what has ended: a GPU would wait for each count.
COUNT_EVERY = {"cpu": 1, "cuda": 8}


class Decoding:
    """Rows of a model, each at the end of its sequence. cache: their keys and values, each row's tokens
    at the end. lengths: (rows,) int64, how many they are. width: of the cache, and at least the longest
    row; what stands before a row's tokens is padding. room: how wide the cache may grow. dtype: that
    attention computes in."""

    def __init__(
        self, model, cache: Cache, lengths: Tensor, width: int, room: int, dtype: torch.dtype
    ):
        self.cache, self.width = cache, width
        self._model, self._output = model, OutputLayer(model)
        self._cache_name = cache_name(model.base_model)
        self.positions = lengths[:, None]
        # One mask for all layers and tokens: what comes is seen, so that it only grows. Attention kernels
        # want rows of a multiple of 8, and numbers of their own type.
        padding = (
            torch.arange(-(-room // 8) * 8, device=lengths.device) < (width - lengths)[:, None]
        )
        self.mask: Tensor | None = torch.zeros_like(padding, dtype=dtype)
        self.mask = self.mask.masked_fill_(padding, -math.inf)[:, None, None]
        self._forget_mask()

    def extend(self, parents: Tensor | None, tokens: Tensor) -> Tensor:
        """Row r becomes what row `parents[r]` was, (rows,) int64, or stays what it is, and `tokens[r]`
        behind it; logits (rows, vocabulary) of what follows."""
        if parents is not None:
            self.select(parents)
        self.width += 1
        output = self._model.base_model(
            input_ids=tokens[:, None],
            attention_mask=None if self.mask is None else self.mask[..., : self.width],
            position_ids=self.positions,
            use_cache=True,
            **{self._cache_name: self.cache},
        )
        self.positions = self.positions + 1
        return self.logits(output.last_hidden_state[:, -1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Of the last hidden states (n, width)."""
        return self._output.logits(hidden)

    def select(self, parents: Tensor) -> None:
        """Keep these rows, in this order, one of them perhaps more than once."""
        rows = torch.arange(len(self.positions), device=parents.device)
        if torch.equal(parents, rows):
            return
        self.cache.batch_select_indices(parents)
        self.positions = self.positions[parents]
        if self.mask is not None:
            self.mask = self.mask[parents]
            self._forget_mask()

    def rooms(self) -> list[list[Tensor]]:
        """Of each layer the keys and the values (rows, heads, room, dim); the first `width` of the room
        are taken."""
        return [layer.rooms for layer in self.cache.layers if isinstance(layer, _RowLayer)]

    def _forget_mask(self) -> None:
        """Where no row is padded, attention is faster without one."""
        if bool((self.positions == self.width).all()):
            self.mask = None


def decode_apart(decoding: Decoding, draws: Draws, tokens: Tensor) -> None:
    """Draw all that is left to draw, where each row of the model is of one response; tokens (rows,):
    what was drawn last, and not yet read."""
    every = COUNT_EVERY.get(tokens.device.type, 1)
    while True:
        tokens = draws.draw(decoding.extend(None, tokens))
        if draws.full:
            return
        if draws.step % every == 0:
            left = draws.left()
            if not left:
                return
            if draws.few(left):
                going = (~draws.ended).nonzero().squeeze(1)
                draws.keep(going)
                decoding.select(going)
                tokens = tokens[going]


def prefill(
    model, prompts: Sequence[tuple[int, ...]], pad_id: int, more: int
) -> tuple[Tensor, Decoding]:
    """Logits (n, vocabulary) of what follows each of n prompts, and n rows that stand at their ends,
    each of which may be `more` tokens longer in the end."""
    device = model.device
    rows, _ = fill_rows(prompts, MOST_POSITIONS)
    packed = pack([[prompts[index] for index in row] for row in rows], pad_id)
    name = cache_name(model.base_model)
    output = model.base_model(
        input_ids=packed.input_ids.to(device),
        attention_mask=packed.attention_mask.to(device),
        position_ids=packed.position_ids.to(device),
        use_cache=True,
        # The one a model makes would drop what lies outside a window.
        **{name: Cache(layer_class_to_replicate=_PackedLayer)},
    )
    order = [prompts[index] for row in rows for index in row]
    path_of = dict(zip(order, packed.paths, strict=True))
    longest = max(map(len, prompts))
    padded = [[0] * (longest - len(prompt)) + path_of[prompt] for prompt in prompts]
    paths = torch.tensor(padded, device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    cache, dtype = getattr(output, name), model.dtype
    for index, layer in enumerate(cache.layers):  # one at a time, so that the packed one is freed
        cache.layers[index] = own = _RowLayer(layer, paths, more)
        dtype = own.rooms[0].dtype
    hidden = output.last_hidden_state.flatten(0, 1)[paths[:, -1]]
    decoding = Decoding(model, cache, lengths, longest, longest + more, dtype)
    return decoding.logits(hidden), decoding


class _PackedLayer(DynamicLayer):
    """A layer's keys and values of packed prompts, which are read at once, in the type that attention
    computes in."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        """Take them in, and give them back."""
        self.lazy_initialization(key_states, value_states)
        dtype = _attention_type(key_states)
        self.keys, self.values = key_states.to(dtype), value_states.to(dtype)
        return self.keys, self.values


class _RowLayer(DynamicLayer):
    """A layer's keys and values (rows, heads, time, dim) of rows that stand at `paths` (rows, width)
    in packed ones, with room for more: growing by copies costs more than a small model's forward."""

    def __init__(self, packed: DynamicLayer, paths: Tensor, more: int):
        super().__init__()
        keys, values = packed.keys, packed.values
        assert keys is not None and values is not None, "a layer that has read something"
        self.lazy_initialization(keys, values)
        self.rooms = [_row_tensor(kept, paths, more) for kept in (keys, values)]
        self._show(paths.shape[1])

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs):
        """Take in the next tokens' keys and values; those of all tokens so far."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order, one of them perhaps more than once."""
        time = self.get_seq_length()
        self.rooms = [_selected(room, indices, time) for room in self.rooms]
        self._show(time)

    def _show(self, time: int) -> None:
        self.keys, self.values = (room[:, :, :time] for room in self.rooms)


def _attention_type(states: Tensor) -> torch.dtype:
    """What attention makes of keys and values. Kept so they take half the memory, and are not made so for
    every token."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def _row_tensor(packed: Tensor, paths: Tensor, more: int) -> Tensor:
    _, heads, _, size = packed.shape
    rows, width = paths.shape
    room = packed.new_empty(rows, heads, width + more, size)
    room[:, :, :width] = packed.transpose(1, 2).flatten(0, 1)[paths].transpose(1, 2)
    return room


def _selected(room: Tensor, rows: Tensor, time: int) -> Tensor:
    """`room[rows]`; only its first `time` positions are read."""
    selected = room.new_empty(len(rows), *room.shape[1:])
    selected[:, :, :time] = room[:, :, :time][rows]
    return selected
