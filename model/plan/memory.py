"""What a run has in a GPU's memory, by arithmetic: sizes in bytes, the formula beside each.

Bytes a token were counted by hand; tests hold them to peaks of small models. Example: the
3,085,938,688 parameters of Qwen2.5-3B-Instruct take 16 bytes each, 46.0 GiB.
"""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch

from buffer.packing import row_length
from model.engine.decoding import MOST_POSITIONS
from model.engine.shared import LOGIT_CHUNK_ELEMENTS


class Precision(NamedTuple):
    """Bytes of a frozen weight; of an element of the stream between layers; of a matrix product's
    input, and of the cache. Bytes a token while a layer is recomputed and differentiated, for each
    hidden, query and MLP unit; and while it only runs, for each hidden and MLP unit."""

    frozen: int
    stream: int
    compute: int
    backward: tuple[int, int, int]
    forward: tuple[int, int]


# backward, hidden: the norms' float32 results (8), the stream after attention (4), a gradient (4), and
# the linear layers' inputs: two in float32 (8), or five in bfloat16 (10), as autocast casts for each.
# Query: queries, all heads' keys and values, results. MLP: four results and two gradients.
FLOAT32 = Precision(4, 4, 4, backward=(24, 16, 24), forward=(16, 12))
AUTOCAST = Precision(4, 4, 2, backward=(26, 8, 12), forward=(16, 6))
# peft casts the input of each adapter to float32, and autocast casts it back.
ADAPTERS = Precision(2, 2, 2, backward=(28, 10, 14), forward=(12, 8))

# What is in memory together when a phase may be at its peak.
TOGETHER = {
    "rollout": (
        "weights + AdamW moments + bfloat16 copies + packed prompts + reading prompts",
        "weights + AdamW moments + bfloat16 copies + KV cache + copied layer",
        "weights + AdamW moments + bfloat16 copies + KV cache + sampling",
    ),
    "update": (
        "weights + AdamW moments + gradients + activations kept + masks + bfloat16 copies + logits forward",
        "weights + AdamW moments + gradients + activations kept + masks + output gradient + logits backward",
        "weights + AdamW moments + gradients + activations kept + masks + output gradient + layer backward",
    ),
}


class Part(NamedTuple):
    """What one role does in a step: rows sampled, how many prompts they have at most, tokens of a
    prompt and of a response; how many prompts they have where every proposal is valid and new, and how
    many responses are trained on."""

    rows: int
    distinct: int
    prompt: int
    new: int
    asked: int = 0
    trained: int = 0

    @property
    def read(self) -> int:
        """Positions in the model while sampling, each prompt once; a last token is not read."""
        return self.asked * self.prompt + self.rows * (self.new - 1)

    @property
    def scored(self) -> int:
        """Positions in the model in the update, each prompt once."""
        return min(self.asked, self.trained) * self.prompt + self.trained * (self.new - 1)

    @property
    def apart(self) -> int:
        """Both, if each response had its prompt to itself."""
        return (self.rows + self.trained) * (self.prompt + self.new - 1)


@dataclass(frozen=True)
class Row:
    """A size in bytes and the formula that gave it."""

    size: int
    formula: str

    def __add__(self, other: "Row") -> "Row":
        both = Row(self.size + other.size, f"{self.formula} + {other.formula}")
        return both if other.size else self

    def __rmul__(self, factor: int) -> "Row":
        return Row(factor * self.size, f"{factor:,} x ({self.formula})")


def product(*factors: int) -> Row:
    size = prod(factors)
    return Row(size, " x ".join(f"{factor:,}" for factor in factors) if size else "0")


def units(config) -> tuple[int, int, int, int]:
    """Hidden, query, MLP and key units of a layer, of all its heads together."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return config.hidden_size, queries, config.intermediate_size, keys


def standing_rows(model, precision: Precision, rank: int = 0) -> dict[str, Row]:
    """What stays all run; the gradients; the copies that autocast keeps as long as it lasts. Adapters
    of rank r have r elements for each input and output of a layer."""
    linear = [own for own in model.base_model.modules() if isinstance(own, torch.nn.Linear)]
    adapters = rank * sum(own.in_features + own.out_features for own in linear)
    matrices = sum(own.weight.numel() for own in [*linear, model.get_output_embeddings()])
    cast = {FLOAT32: 0, AUTOCAST: matrices, ADAPTERS: adapters}
    trained = adapters or model.num_parameters()
    weights = product(trained, 4)
    return {
        "weights": product(model.num_parameters(), precision.frozen) + weights if rank else weights,
        "AdamW moments": product(trained, 8),
        "gradients": product(trained, 4),
        "bfloat16 copies": product(cast[precision], 2),
    }


def update_rows(
    model, precision: Precision, positions: int, row: int, rank: int, floor: float
) -> dict[str, Row]:
    """What a microbatch of `positions`, in packed rows of `row`, adds; an entropy bonus with a floor
    has tables of its own."""
    compute, checkpointed = precision.compute, model.is_activation_checkpointing
    layers, vocabulary = model.config.num_hidden_layers, model.config.vocab_size
    hidden, queries, mlp, _ = units(model.config)
    h, q, m = precision.backward
    inside = product(h, hidden) + product(q, queries) + product(m, mlp)
    kept, layer = product(positions, layers, hidden, precision.stream), positions * inside
    copies = product(0)
    if not checkpointed:  # all layers keep what one layer needs, but for two gradients
        layer = product(positions, 2 * compute * mlp + 4 * hidden)
        kept = product(positions, layers, inside.size - layer.size // positions)
        copies = product(model.num_parameters(), 4 - compute)
    tokens = min(max(1, LOGIT_CHUNK_ELEMENTS // vocabulary), positions)
    # The logits, what is made of them and their powers; with a floor those of the likely too. Backward
    # three tables, and where the logits are narrower one of theirs.
    forward = compute + (12 if floor else 8)
    backward = max(forward, 12 + (4 - compute))
    ends = product(positions, hidden, 12)  # what the last layer and the last norm give
    return {
        "activations kept": kept,
        "masks": product(positions, row, 1 + (1 if checkpointed else layers) * compute),
        "layer backward": layer + copies,
        "logits forward": product(tokens, vocabulary, forward) + ends,
        "logits backward": product(tokens, vocabulary, backward) + ends + copies,
        # A bfloat16 copy and gradient; then, where tied, a float32 one that waits for the embedding's.
        "output gradient": product(vocabulary, hidden, 0 if rank else 4),
    }


def rollout_rows(model, precision: Precision, part: Part, most: int) -> dict[str, Row]:
    """What a slice of `most` rows adds."""
    rows, read = min(most, part.rows), min(most, part.distinct) * part.prompt
    hidden, _, mlp, keys = units(model.config)
    token, stream = 2 * model.config.num_hidden_layers * keys, precision.stream
    inside = product(precision.forward[0], hidden) + product(precision.forward[1], mlp)
    packed_row = row_length(part.prompt, part.prompt, MOST_POSITIONS)
    return {
        "packed prompts": product(read, token, stream),
        "reading prompts": read * inside + product(read, packed_row),
        "KV cache": product(rows, part.prompt + part.new, token, precision.compute),
        # A layer's cache made anew when rows part: its keys, values, and what is copied into them.
        "copied layer": product(rows, part.prompt + part.new, keys, 3, precision.compute),
        "sampling": product(rows, model.config.vocab_size, 12 + precision.compute),
    }


def peak(rows: dict[str, Row], phase: str) -> Row:
    """The most bytes at once, and what they are the sum of."""
    moments = {text: sum(rows[name].size for name in text.split(" + ")) for text in TOGETHER[phase]}
    text = max(moments, key=moments.get)
    return Row(moments[text], text)
