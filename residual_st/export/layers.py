"""Building blocks of the graphs of encoder and decoder: attention, feed-forward, positions."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var
from spox._future import initializer
from torch import nn

from residual_st.errors import InputError
from residual_st.export.constants import integer, ints, number
from residual_st.export.products import Products
from residual_st.sharing import Matrix, shape_of

FIRST_POSITION = 2  # fairseq's: 0 is unused, and 1 is padding
APART = -1e8  # fairseq's value; not infinite, since a chunk may contain only padding


class Layers(Protocol):
    """Layers of fairseq or transformers: their modules have the same names, but no common class."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Attention(NamedTuple):
    """The matrices of an attention module and its number of heads."""

    q: Matrix
    k: Matrix
    v: Matrix
    out: Matrix
    heads: int

    @classmethod
    def of(cls, module: Any) -> "Attention":
        """From a module with the names of fairseq's attention and Whisper's."""
        return cls(module.q_proj, module.k_proj, module.v_proj, module.out_proj, module.num_heads)

    @property
    def width(self) -> int:
        """Width of one head."""
        return shape_of(self.q)[0] // self.heads


class Branches:
    """The residual branches of layers, as functions of a graph's variables.

    States are (batch * time, width): onnxruntime fuses sums into two-dimensional products.

    Args:
        products: matrix products.
        batch, time: shape of the states, each (1,).
    """

    def __init__(self, products: Products, batch: Var, time: Var):
        self.products = products
        self.batch, self.time = batch, time

    def residual(self, x: Var, norm: nn.LayerNorm, layer: nn.Module, branch: Callable[[Var], Var]) -> Var:
        """`x + branch(x)`, with the norm before the branch or, in some of fairseq's layers, after the sum."""
        if getattr(layer, "normalize_before", True):
            return op.add(x, branch(self.products.norm(x, norm)))
        return self.products.norm(op.add(x, branch(x)), norm)

    def feed_forward(self, x: Var, layer: Any) -> Var:
        return self.products.feed_forward(x, layer.fc1, activation_of(layer.activation_fn), layer.fc2)

    def heads(self, x: Var, attention: Attention, letters: str) -> list[Var]:
        """Queries, keys and values, or some of them, each (batch, heads, time, width / heads)."""
        shape = op.concat([self.batch, self.time, ints(len(letters), attention.heads, attention.width)], axis=0)
        linears = [getattr(attention, letter) for letter in letters]
        y = self.products.side_by_side(x, linears) if len(letters) > 1 else self.products.linear(x, linears[0])
        y = op.transpose(op.reshape(y, shape), perm=[2, 0, 3, 1, 4])
        parts = op.split(y, num_outputs=len(letters), axis=0) if len(letters) > 1 else [y]
        return [op.squeeze(part, ints(0)) for part in parts]

    def attend(self, queries: Var, keys: Var, values: Var, mask: Var | None, attention: Attention) -> Var:
        """softmax(Q Kᵀ / √(width / heads) + mask) V, projected."""
        return self.weighted(op.matmul(queries, op.transpose(keys, perm=[0, 1, 3, 2])), values, mask, attention)

    def weighted(self, scores: Var, values: Var, mask: Var | None, attention: Attention) -> Var:
        """softmax(scores / √(width / heads) + mask) V, projected."""
        return self.gathered(self.weights(scores, mask, attention), values, attention)

    def weights(self, scores: Var, mask: Var | None, attention: Attention) -> Var:
        """softmax(scores / √(width / heads) + mask)"""
        scores = op.mul(scores, number(attention.width**-0.5))
        return op.softmax(scores if mask is None else op.add(scores, mask), axis=-1)

    def gathered(self, weights: Var, values: Var, attention: Attention) -> Var:
        """`weights` V, projected."""
        attended = op.transpose(op.matmul(weights, values), perm=[0, 2, 1, 3])
        rows = op.reshape(attended, ints(-1, attention.heads * attention.width))
        return self.products.linear(rows, attention.out)


def transformer(
    branches: Branches,
    x: Var,
    mask: Var | None,
    layers: Layers,
    with_past: Callable[[int, Var, Var], tuple[Var, Var]] = lambda _layer, keys, values: (keys, values),
) -> Var:
    """Output of layers of fairseq's Transformer encoder, or of Whisper's with the same names, for x (batch * time, width).

    Args:
        with_past: function (index of a layer, keys, values) -> keys and values including earlier ones.
    """
    for index, layer in enumerate(layers):
        attention = Attention.of(layer.self_attn)

        def attend(y: Var, index=index, attention=attention) -> Var:
            queries, keys, values = branches.heads(y, attention, "qkv")
            return branches.attend(queries, *with_past(index, keys, values), mask, attention)

        x = branches.residual(x, layer.self_attn_layer_norm, layer, attend)
        x = branches.residual(x, layer.final_layer_norm, layer, partial(branches.feed_forward, layer=layer))
    return x


def swish(x: Var) -> Var:
    return op.mul(x, op.sigmoid(x))


def gated(x: Var) -> Var:
    """A gated linear unit: one half of the last dimension times the sigmoid of the other."""
    values, gates = op.split(x, num_outputs=2, axis=-1)
    return op.mul(values, op.sigmoid(gates))


# names of functions and of classes; the former are also the values of --activation-fn
ACTIVATIONS = {"relu": op.relu, "ReLU": op.relu, "gelu": op.gelu, "GELUActivation": op.gelu, "SiLU": swish}


def activation_of(function):
    """The graph of an activation function. Raises InputError if it is not supported."""
    name = getattr(function, "__name__", type(function).__name__)
    if name not in ACTIVATIONS:
        allowed = ", ".join(filter(str.islower, ACTIVATIONS))
        raise InputError(f"a model with --activation-fn {name} cannot be exported; it must be one of {allowed}")
    return ACTIVATIONS[name]


def attention_mask(inside: Var) -> Var:
    """(batch, time), True for positions that may be attended to -> (batch, 1, 1, time), to be added to scores."""
    return op.unsqueeze(op.where(inside, number(0.0), number(-np.inf)), ints(1, 2))


def chunk_mask(past: Var | int, time: Var, frames: int, left: int) -> Var:
    """(time, past + time), to be added to scores: each frame attends to its own chunk and to `left` chunks before it.

    Args:
        past: number of earlier frames, in whole chunks.
        time: number of frames, ().
        frames: frames per chunk.
    """
    past = integer(past) if isinstance(past, int) else past
    end = op.add(past, time)
    chunk_of_keys = op.div(op.range(integer(0), end, integer(1)), integer(frames))
    chunk_of_queries = op.div(op.range(past, end, integer(1)), integer(frames))
    behind = op.sub(op.unsqueeze(chunk_of_queries, ints(1)), chunk_of_keys)
    seen = op.and_(op.greater_or_equal(behind, integer(0)), op.less_or_equal(behind, integer(left)))
    return op.where(seen, number(0.0), number(APART))


def sinusoids(positions: Var, width: int) -> Var:
    """fairseq's sinusoidal embeddings of positions that count from 0, (time,) -> (time, width)."""
    half = width // 2
    rates = np.exp(np.arange(half, dtype=np.float32) * -np.float32(math.log(10000) / (half - 1)))
    places = op.add(op.cast(positions, to=np.float32), number(FIRST_POSITION))
    phases = op.mul(op.unsqueeze(places, ints(1)), initializer(rates))
    parts = [op.sin(phases), op.cos(phases)]
    if width % 2:
        parts.append(op.mul(op.slice(phases, ints(0), ints(1), ints(1)), number(0.0)))
    return op.concat(parts, axis=1)
