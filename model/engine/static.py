"""Decoding in place: no tensor of a step is made anew, so that a GPU can record the step once and repeat
it without Python (`torch.cuda.graph`). A step of 36 layers is about 500 kernels, which one after the
other take longer to launch than to run.

It begins where `model/engine/shared.py` has read the prompts and no two rows of the model are the same. Then
rows x (token, position, keys and values) -> rows x (next token, its log-probability), with the draw inside. A
recording is of one number of rows and one length of the cache. Rows that have ended are computed until so
many have that the others fit the next smaller number; and attention reads the cache up to the next
multiple of 128.

    rows     430, then 320, 224, ..., each at most three quarters of the one before
    length   256, then 384, ..., as it grows

What numbers have which type is what autocast makes of the same model: factors of products and the cache
are narrow, the stream between the layers and its norms are not. On a CPU the same steps run unrecorded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from model.engine.decoding import COUNT_EVERY as BY_DEVICE
from model.engine.decoding import Decoding
from model.engine.sampling import STAYING, Draws, are_stops, sample_tokens
from model.engine.shared import SharedEngine

ROW_STEP = 32  # rows of a recording, but of the first, are a multiple of this
LENGTH_STEP = 128  # and positions of the cache of this
COUNT_EVERY = BY_DEVICE["cuda"]  # and so on a CPU, where the same steps run

KNOWN = "Qwen2ForCausalLM", "LlamaForCausalLM"
FIXED_ROTATIONS = "default", "linear", "llama3", "yarn"  # whose angles do not depend on the length


class StaticEngine(SharedEngine):
    """The shared engine, with a decoding that a GPU records and repeats. `static_fault` says which
    models it is for."""

    def _decode(self, decoding: Decoding, draws: Draws, tokens: Tensor) -> None:
        torch.clear_autocast_cache()  # copies of the weights, which are about to be made again
        with _own_stream(tokens.device), torch.autocast(tokens.device.type, enabled=False):
            decoder = StaticDecoder(self.model, decoding, draws, tokens)
            decoder.run()
        if tokens.is_cuda:
            torch.cuda.synchronize()  # no recording goes while it runs
            del decoder
            torch.cuda.empty_cache()  # what recordings reserve, nobody else can use


def static_fault(model) -> str | None:
    """Why a model cannot be decoded in place, in words; None where it can."""
    if type(model).__name__ not in KNOWN:
        return f"its architecture is {type(model).__name__}, and not {' or '.join(KNOWN)}"
    base, config = model.base_model, model.config
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return "its layers look through a window"
    if base.rotary_emb.rope_type not in FIXED_ROTATIONS:
        return (
            f"its rotations are {base.rotary_emb.rope_type}, and not {' or '.join(FIXED_ROTATIONS)}"
        )
    matrices = [one for layer in base.layers for one in _matrices(layer)]
    if any(type(one) is not nn.Linear for one in (*matrices, model.get_output_embeddings())):
        return "its matrices have adapters or other forms"
    return None


def _matrices(layer) -> Sequence[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    return (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip


class _Matrix(NamedTuple):
    """Several linear layers of one input as one, in the type of computation."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, *layers, dtype: torch.dtype) -> "_Matrix":
        weight = torch.cat([layer.weight.to(dtype) for layer in layers])
        biases = [layer.bias for layer in layers if layer.bias is not None]
        assert len(biases) in (0, len(layers)), "all have one or none has"
        return cls(weight, torch.cat([bias.to(dtype) for bias in biases]) if biases else None)

    def __call__(self, inputs: Tensor) -> Tensor:
        return linear(inputs, *self)


class _Layer:
    """A layer with copies of its matrices, and its part of the cache."""

    def __init__(self, layer, rooms: list[Tensor], width: int, dtype: torch.dtype):
        q, k, v, o, gate, up, down = _matrices(layer)
        self.qkv, self.out = _Matrix.of(q, k, v, dtype=dtype), _Matrix.of(o, dtype=dtype)
        self.gate_up, self.down = _Matrix.of(gate, up, dtype=dtype), _Matrix.of(down, dtype=dtype)
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.activation, self.scaling = layer.mlp.act_fn, layer.self_attn.scaling
        self.rooms = rooms  # keys and values (rows, heads, room, dim)
        for room in rooms:
            room[:, :, width:] = 0  # attention multiplies what it does not see by 0


class StaticDecoder:
    """Draws all that is left to draw, where each row of the model is of one response. tokens (rows,):
    what was drawn last, and not yet read."""

    def __init__(self, model, decoding: Decoding, draws: Draws, tokens: Tensor):
        self.decoding, self.draws, self.base = decoding, draws, model.base_model
        device, rooms = tokens.device, decoding.rooms()
        (keys, _), *_ = rooms
        self.dtype, (_, self.heads, self.room, self.size) = keys.dtype, keys.shape
        self.layers = [
            _Layer(layer, own, decoding.width, self.dtype)
            for layer, own in zip(self.base.layers, rooms, strict=True)
        ]
        # The state of each row; of the first `rows`, those that are still computed.
        self.rows = len(tokens)
        self.tokens, self.positions = tokens.clone(), decoding.positions.squeeze(1).clone()
        self.held, self.ended = draws.held.clone(), draws.ended.clone()
        self.mask = self._mask()
        # What is the same for all rows: where the cache grows, and which token is drawn.
        self.column = torch.tensor([decoding.width], device=device)
        self.step = torch.tensor([draws.step], device=device)
        places = torch.arange(self.room + 1, device=device)[None]
        stream = self.base.embed_tokens.weight
        self.angles = [table[0] for table in self.base.rotary_emb(stream[:1, None], places)]
        self._shape: tuple[int, int] | None = None
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if tokens.is_cuda else None

    def _mask(self) -> Tensor:
        """(rows, 1, 1, room) as attention takes it, in rows of a multiple of 8: what comes is not seen
        yet."""
        mask = self.decoding.mask
        if mask is None:
            width = -(-self.room // 8) * 8
            mask = torch.zeros(self.rows, 1, 1, width, dtype=self.dtype, device=self.tokens.device)
        mask = mask.clone()
        mask[..., self.decoding.width :] = -torch.inf
        return mask

    def run(self) -> None:
        """Until all have ended or have all the tokens that they may have."""
        draws = self.draws
        while not draws.full:
            self._advance()
            self.decoding.width += 1
            draws.step += 1
            if draws.step % COUNT_EVERY == 0:
                left = self.rows - int(self.ended[: self.rows].sum())
                if not left:
                    return
                fewer = -(-left // ROW_STEP) * ROW_STEP
                if fewer <= STAYING * self.rows:
                    self._keep(fewer)

    def _advance(self) -> None:
        """One token: the first of a shape unrecorded, which is also how libraries get ready for it."""
        length = -(-(self.decoding.width + 1) // LENGTH_STEP) * LENGTH_STEP
        shape = self.rows, min(length, self.room)
        is_new, self._shape = shape != self._shape, shape
        if is_new or self._pool is None:
            self._read_and_draw(*shape)
            return
        if shape not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=torch.cuda.current_stream(),
                capture_error_mode="thread_local",
            ):
                self._read_and_draw(*shape)
            self._graphs[shape] = graph  # all stay: they share their memory
        self._graphs[shape].replay()

    def _read_and_draw(self, rows: int, length: int) -> None:
        """Read the last token of each of the first `rows` rows and draw the next; attention looks at the
        first `length` positions of the cache."""
        draws, ended = self.draws, self.ended[:rows]
        logits = self._logits(rows, length)
        held, step = self.held[:rows], self.step.expand(rows)
        drawn = draws.uniform[held, step]
        tokens, logprobs = sample_tokens(logits, draws.temperature, drawn)
        tokens = tokens.masked_fill(ended, draws.pad_id)
        draws.tokens[held, step], draws.logprobs[held, step] = tokens, logprobs
        ended |= are_stops(tokens, draws.stops)
        self.tokens[:rows] = tokens
        for counter in (self.positions[:rows], self.column, self.step):
            counter += 1

    def _logits(self, rows: int, length: int) -> Tensor:
        """(rows, vocabulary) of what follows the last tokens."""
        mask = self.mask[:rows]
        mask.index_fill_(3, self.column, 0)
        cos, sin = (table[self.positions[:rows], None] for table in self.angles)
        stream = self.base.embed_tokens(self.tokens[:rows])
        for layer in self.layers:
            before_attention, before_mlp = layer.norms
            heads = layer.qkv(_normed(stream, before_attention).to(self.dtype))
            *rotated, values = self._split(heads.view(rows, -1, self.size))
            queries, keys = (_rotated(each, cos, sin).to(self.dtype) for each in rotated)
            for room, new in zip(layer.rooms, (keys, values), strict=True):
                room[:rows].index_copy_(2, self.column, new[:, :, None])
            all_keys, all_values = (room[:rows, :, :length] for room in layer.rooms)
            # Queries that share keys are rows of one product: none is repeated in memory.
            found = scaled_dot_product_attention(
                queries.view(rows, self.heads, -1, self.size),
                all_keys,
                all_values,
                attn_mask=mask[..., :length],
                scale=layer.scaling,
            )
            stream = stream + layer.out(found.reshape(rows, -1))
            gate, up = layer.gate_up(_normed(stream, before_mlp).to(self.dtype)).chunk(2, -1)
            stream = stream + layer.down(layer.activation(gate) * up)
        return self.decoding.logits(_normed(stream, self.base.norm))

    def _split(self, heads: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (rows, their heads, dim) each."""
        return heads.split([heads.shape[1] - 2 * self.heads, self.heads, self.heads], 1)

    def _keep(self, rows: int) -> None:
        """Compute so many rows only: those that have yet to end, and some that have."""
        chosen = self.ended[: self.rows].sort(stable=True).indices[:rows]
        for state in (self.tokens, self.positions, self.held, self.ended, self.mask):
            state[:rows] = state[chosen]
        width = self.decoding.width
        for layer in self.layers:
            for room in layer.rooms:
                room[:rows, :, :width] = room[chosen, :, :width]
        self.rows = rows


def _normed(stream: Tensor, norm) -> Tensor:
    return rms_norm(stream, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotated(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair of a head's first and second half, turned by its angle; heads (rows, n, dim)."""
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Recordings are made on a stream of their own; on a CPU there is none."""
    if device.type != "cuda":
        yield
        return
    outer, own = torch.cuda.current_stream(device), _stream(device)
    own.wait_stream(outer)
    with torch.cuda.stream(own):
        yield
    outer.wait_stream(own)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all: libraries keep memory for each stream that they have worked on."""
    return torch.cuda.Stream(device)
