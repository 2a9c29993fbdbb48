"""What a run has in a GPU's memory, by arithmetic: sizes in bytes by name, and which of them are in memory
at the same moment.

A size is written as the products that add up to it, so that it can be shown with its formula: the weights
of Qwen2.5-3B-Instruct are `[(3_085_938_688, 4)]`, 11.5 GiB. Bytes a token were counted by hand; tests
hold them to the measured peaks of small models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch
from transformers import PretrainedConfig, PreTrainedModel

from buffer.packing import row_length
from model.engine.decoding import MOST_POSITIONS
from model.engine.shared import LOGIT_CHUNK_ELEMENTS
from model.inference import largest_slice
from model.policy.modes import layers_of

Products = Sequence[tuple[int, ...]]


def total(products: Products) -> int:
    """The sum: 22 for [(4, 5), (2,)]."""
    return sum(prod(factors) for factors in products)


@dataclass(frozen=True)
class Precision:
    """How many bytes a number takes, and how many such bytes a layer needs for a token."""

    frozen: int  # of a weight that is not trained
    stream: int  # of an element of the stream between layers
    compute: int  # of an input of a matrix product, and of an element of the cache
    # While a layer is recomputed and differentiated: for each hidden, query and MLP unit.
    backward: tuple[int, int, int]
    # While a layer only runs: for each hidden and MLP unit.
    forward: tuple[int, int]


# backward, hidden: the norms' float32 results (8), the stream after attention (4), a gradient (4), and
# the linear layers' inputs: two in float32 (8), or five in bfloat16 (10), as autocast casts for each.
# Query: queries, all heads' keys and values, results. MLP: four results and two gradients.
FLOAT32 = Precision(4, 4, 4, backward=(24, 16, 24), forward=(16, 12))
AUTOCAST = Precision(4, 4, 2, backward=(26, 8, 12), forward=(16, 6))
# peft casts the input of each adapter to float32, and autocast casts it back.
ADAPTERS = Precision(2, 2, 2, backward=(28, 10, 14), forward=(12, 8))

# What is in memory all the time, and beside it at each moment at which a phase may be at its peak; the
# last name of a moment says what happens then.
# Of a run with --shard, "weights", "AdamW moments" and "gradients" are this process's part, and the gathered
# ones are whole: each layer's while it runs and while the next is fetched, all layers' while sampling; the
# rest (embedding, output layer, last norm) all the time, with a gradient in the update. A layer that is done
# has its gradient in both types while its sum is made.
# "movement" is what alignment needs: the weights before the last step, their difference, and a gradient.
STANDING = ("weights", "frozen proposer", "AdamW moments", "movement")
COPIES = ("bfloat16 copies", "output copy")  # the output layer's is made after all others
SAMPLING = (*STANDING, "gathered layers", "gathered rest")
UPDATING = (*STANDING, "gradients", "gathered rest", "rest gradient", "activations kept", "masks")
MOMENTS = {
    "rollout": (
        (*SAMPLING, "bfloat16 copies", "packed prompts", "reading prompts"),
        (*SAMPLING, *COPIES, "KV cache", "copied layer"),
        (*SAMPLING, *COPIES, "KV cache", "sampling"),
    ),
    "update": (
        (*UPDATING, "copies kept", "logits backward"),
        (*UPDATING, "copies kept", "output gradient", "fetched layers", "layer backward"),
        (*UPDATING, *COPIES, "logits forward"),
    ),
}
# Before the weights of a run with --shard are shared out.
LOADING = "all weights", "weights"


@dataclass(frozen=True)
class Stage:
    """What is sampled together and what of it is trained on: when proposing, solving or evaluating.

    responses: how many are sampled. prompts: how many different prompts they answer at most.
    prompt_tokens, response_tokens: the length of one. asked: how many different prompts they answer
    if every proposal is valid and new. trained: how many of the responses are trained on.
    """

    responses: int
    prompts: int
    prompt_tokens: int
    response_tokens: int
    asked: int = 0
    trained: int = 0

    @property
    def read(self) -> int:
        """Positions in the model while sampling, each prompt once; a last token is not read."""
        return self.asked * self.prompt_tokens + self.responses * (self.response_tokens - 1)

    @property
    def scored(self) -> int:
        """Positions in the model during the update, each prompt once."""
        prompts = min(self.asked, self.trained)
        return prompts * self.prompt_tokens + self.trained * (self.response_tokens - 1)

    def of_process(self, processes: int) -> "Stage":
        """What the process with most of it has, where several share it."""
        parts = {
            name: -(-getattr(self, name) // processes)
            for name in ("responses", "prompts", "asked", "trained")
        }
        return replace(self, **parts)

    def fitting(self, row: int) -> int:
        """How many responses to one prompt a packed row of so many positions has room for."""
        return max(1, (row - self.prompt_tokens) // max(1, self.response_tokens - 1))

    @property
    def unshared(self) -> int:
        """`read` and `scored` together, if each response had its prompt to itself."""
        positions = self.prompt_tokens + self.response_tokens - 1
        return (self.responses + self.trained) * positions


def longest_sequence(stages: Sequence[Stage]) -> tuple[int, int]:
    """The most tokens of a prompt with its response that is trained on, and those of the prompt."""
    return max(
        (stage.prompt_tokens + stage.response_tokens, stage.prompt_tokens)
        for stage in stages
        if stage.trained
    )


def packed_row(stages: Sequence[Stage], microbatch_tokens: int) -> int:
    """How many positions a packed row of the update has."""
    longest, shared = longest_sequence(stages)
    return row_length(longest, shared, microbatch_tokens)


class Units(NamedTuple):
    """The width of a layer: of the stream, of all heads' queries, of the MLP, of all heads' keys."""

    hidden: int
    queries: int
    mlp: int
    keys: int


def units(config: PretrainedConfig) -> Units:
    """The widths of a model's layers, by its config."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    return Units(config.hidden_size, queries, config.intermediate_size, keys)


def sharded_sizes(
    model: PreTrainedModel, precision: Precision, processes: int
) -> dict[str, Products]:
    """`standing_sizes` of the first of several processes that share the weights out, each of them by its
    first dimension; and what of them is gathered. No weight is copied but the output layer."""
    layers = layers_of(model)
    sizes = [sum(weight.numel() for weight in layer.parameters()) for layer in layers]
    rest = model.num_parameters() - sum(sizes)
    own = sum(
        -(-len(weight) // processes) * prod(weight.shape[1:]) for weight in model.parameters()
    )
    largest, compute = max(sizes, default=0), precision.compute
    return {
        "all weights": [(model.num_parameters(), 4)],
        "weights": [(own, 4)],
        "AdamW moments": [(own, 8)],
        "gradients": [(own, 4)],
        "output copy": _output_copy(model, precision),
        "gathered layers": [(sum(sizes), compute)],
        "gathered rest": [(rest, 4)],
        "rest gradient": [(rest, 4)],
        "fetched layers": [(2, largest, compute), (largest, compute + 4)],
    }


def standing_sizes(
    model: PreTrainedModel, precision: Precision, rank: int = 0
) -> dict[str, Products]:
    """What is there all run long, the gradients, and the copies of weights that autocast keeps while a
    forward pass lasts. Adapters of rank r have r elements for each input and output of a layer."""
    linear = [layer for layer in model.base_model.modules() if isinstance(layer, torch.nn.Linear)]
    adapters = rank * sum(layer.in_features + layer.out_features for layer in linear)
    matrices = sum(layer.weight.numel() for layer in linear)
    trained = adapters if rank else model.num_parameters()
    copied = {FLOAT32: 0, AUTOCAST: matrices, ADAPTERS: adapters}
    frozen = [(model.num_parameters(), precision.frozen)] if rank else []
    return {
        "weights": [*frozen, (trained, 4)],
        "AdamW moments": [(trained, 8)],
        "gradients": [(trained, 4)],
        "bfloat16 copies": [(copied[precision], 2)],
        "output copy": _output_copy(model, precision),
    }


def _output_copy(model: PreTrainedModel, precision: Precision) -> Products:
    """The output layer's weight as a narrow factor."""
    return [(model.get_output_embeddings().weight.numel() if precision is AUTOCAST else 0, 2)]


def update_sizes(
    model: PreTrainedModel,
    precision: Precision,
    positions: int,
    row: int,
    scored: int,
    rank: int,
    entropy_floor: float,
) -> dict[str, Products]:
    """What a microbatch of `positions`, in packed rows of length `row`, adds. scored: how many response
    tokens it has, which alone get logits. An entropy bonus with a floor makes one more table of their
    size."""
    compute, checkpointed = precision.compute, model.is_activation_checkpointing
    layers, vocabulary = model.config.num_hidden_layers, model.config.vocab_size
    hidden, queries, mlp, _ = units(model.config)
    per_hidden, per_query, per_mlp = precision.backward
    layer = [
        (positions, per_hidden, hidden),
        (positions, per_query, queries),
        (positions, per_mlp, mlp),
    ]
    differentiated: Products = layer
    if checkpointed:
        kept: Products = [(positions, layers, hidden, precision.stream)]
        copies: Products = []
        masks = 1 + compute
    else:  # every layer keeps what one layer needs, except two gradients
        differentiated = [(positions, 2 * compute, mlp), (positions, 4, hidden)]
        kept = [(positions, layers, (total(layer) - total(differentiated)) // positions)]
        copies = [(model.num_parameters(), 4 - compute)]
        masks = 1 + layers * compute
    chunk = min(max(1, LOGIT_CHUNK_ELEMENTS // vocabulary), scored)
    # Tables of float32. Forward: z and its powers; with a floor, those of the likely tokens too.
    # Backward: z, its gradient and a factor; with a floor, which tokens are unlikely.
    forward, backward = (12, 13) if entropy_floor else (8, 12)
    # A bfloat16 copy and its gradient; then, if the output layer is tied to the embedding, a float32
    # gradient that waits for the embedding's. Chunks after the first find it there.
    output = [(vocabulary, hidden, 0 if rank else 4)]
    ends = (positions, hidden, 12)  # what the last layer and the last norm give
    return {
        "activations kept": kept,
        "masks": [(positions, row, masks)],
        "copies kept": copies,  # bfloat16 weights, for the backward pass
        "layer backward": differentiated,
        "logits forward": [(chunk, vocabulary, forward), ends],
        "logits backward": [
            (chunk, vocabulary, backward),
            ends,
            *(output if scored > chunk else []),
        ],
        "output gradient": output,
    }


def rollout_sizes(
    model: PreTrainedModel, precision: Precision, stage: Stage, most: int
) -> dict[str, Products]:
    """What sampling a stage adds, at most `most` responses at once."""
    responses = largest_slice(stage.responses, most)
    length = stage.prompt_tokens + stage.response_tokens
    read = min(responses, stage.prompts) * stage.prompt_tokens
    hidden, _, mlp, keys = units(model.config)
    per_hidden, per_mlp = precision.forward
    cached = 2 * model.config.num_hidden_layers * keys  # elements a token
    packed_row = row_length(stage.prompt_tokens, stage.prompt_tokens, MOST_POSITIONS)
    return {
        "packed prompts": [(read, cached, precision.compute)],
        "reading prompts": [(read, per_hidden, hidden), (read, per_mlp, mlp), (read, packed_row)],
        "KV cache": [(responses, length, cached, precision.compute)],
        # A layer's cache made anew when rows part: its keys, values, and what is copied into them.
        "copied layer": [(responses, length, keys, 3, precision.compute)],
        "sampling": [(responses, model.config.vocab_size, 12)],
    }


def sum_of(sizes: Mapping[str, Products], names: tuple[str, ...]) -> int:
    """Bytes of what is named, together; what a run does not have takes none."""
    return sum(total(sizes.get(name, [])) for name in names)


def peak_sizes(sizes: Mapping[str, Products]) -> dict[str, int]:
    """Bytes at the fullest moment of each phase."""
    return {phase: sum_of(sizes, fullest_moment(sizes, phase)) for phase in MOMENTS}


def fullest_moment(sizes: Mapping[str, Products], phase: str) -> tuple[str, ...]:
    """What is in memory together when a phase has most in it, by name."""
    return max(MOMENTS[phase], key=lambda names: sum_of(sizes, names))
