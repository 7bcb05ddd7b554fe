"""The text decoder as two graphs: keys and values of the source, computed once per utterance, and one decoding step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from spox import Var
from torch import Tensor, nn

from residual_st.export.build import build
from residual_st.export.constants import ints, number
from residual_st.export.features import mask_of
from residual_st.export.layers import Attention, Branches, Layers, attention_mask
from residual_st.export.products import Products


@dataclass(frozen=True)
class DecoderParts:
    """The parts of a decoder from any library.

    Attributes:
        layers: with `self_attn`, `encoder_attn`, `fc1`, `fc2` and their norms.
        embedding: word embeddings (vocabulary, width), which are multiplied by `scale`.
        position: function (products, number of the step, ()) -> position embedding (1, width); None if there is none.
        embedding_norm, norm: norms before and after the layers; None if there are none.
        projection: projection to word scores.
        alignment: layers and heads whose attention to the source aligns words with it.
    """

    layers: Layers
    embedding: Tensor
    scale: float
    position: Callable[[Products, Var], Var] | None
    embedding_norm: nn.LayerNorm | None
    norm: nn.LayerNorm | None
    projection: nn.Linear
    alignment: Sequence[tuple[int, int]]


def heads_at_two_thirds(layers: Layers) -> list[tuple[int, int]]:
    """All heads of the layer at two thirds of the depth: AlignAtt (arXiv 2305.11408) and simulstream use the fourth of six."""
    layer = max(0, 2 * len(layers) // 3 - 1)
    return [(layer, head) for head in range(layers[layer].encoder_attn.num_heads)]


def cross_attention_graph(decoder: DecoderParts, precision: str) -> onnx.ModelProto:
    """`states` (batch, time, width) -> `source_keys.L` and `source_values.L` (batch, heads, time, width / heads)."""
    width = decoder.layers[0].encoder_attn.k_proj.in_features
    states = spox.argument(spox.Tensor(np.float32, ("batch", "time", width)))
    rows = op.reshape(states, ints(-1, width))
    branches = Branches(Products(precision), op.shape(states, start=0, end=1), op.shape(states, start=1, end=2))
    outputs = {}
    for index, layer in enumerate(decoder.layers):
        keys, values = branches.heads(rows, Attention.of(layer.encoder_attn), "kv")
        outputs[f"source_keys.{index}"], outputs[f"source_values.{index}"] = keys, values
    return build({"states": states}, outputs)


def decoder_graph(decoder: DecoderParts, precision: str) -> onnx.ModelProto:
    """One step of all hypotheses: the words after `tokens`.

    Inputs: `tokens` (batch, beam), the last word of each hypothesis; `step` (), the number of words before it; `order`
    (batch * beam,), the row of the caches that each hypothesis continues; `state_lengths` (batch,); for each layer L
    `source_keys.L`, `source_values.L`, and the caches `keys.L`, `values.L` (batch * beam, heads, steps, width / heads), initially
    with 0 steps.

    Outputs: `log_probs` (batch, beam, vocabulary); `attention` (batch, beam, time), the attention to the source when predicting the
    next words, averaged over the alignment heads; and the caches with one step more, `next_keys.L` and `next_values.L`, with
    their rows in the order `order`.
    """
    products = Products(precision)
    tokens = spox.argument(spox.Tensor(np.int64, ("batch", "beam")))
    step = spox.argument(spox.Tensor(np.int64, ()))
    order = spox.argument(spox.Tensor(np.int64, ("rows",)))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    inputs = {"tokens": tokens, "step": step, "order": order, "state_lengths": lengths}
    outputs: dict[str, Var] = {}

    batch, beam = op.shape(tokens, start=0, end=1), op.shape(tokens, start=1, end=2)
    of_words, of_source = Branches(products, op.mul(batch, beam), ints(1)), Branches(products, batch, beam)
    x = op.mul(products.rows(decoder.embedding, op.reshape(tokens, ints(-1))), number(decoder.scale))
    if decoder.position is not None:
        x = op.add(x, decoder.position(products, step))
    if decoder.embedding_norm is not None:
        x = products.norm(x, decoder.embedding_norm)
    attentions = [(Attention.of(layer.self_attn), Attention.of(layer.encoder_attn)) for layer in decoder.layers]
    for index, (attention, _) in enumerate(attentions):
        heads, width = attention.heads, attention.width
        source = dict.fromkeys((f"source_keys.{index}", f"source_values.{index}"), ("batch", heads, "time", width))
        cache = dict.fromkeys((f"keys.{index}", f"values.{index}"), ("rows", heads, "steps", width))
        inputs |= {name: spox.argument(spox.Tensor(np.float32, shape)) for name, shape in {**source, **cache}.items()}
    longest = op.squeeze(op.shape(inputs["source_keys.0"], start=2, end=3), ints(0))
    source_mask = attention_mask(mask_of(lengths, longest))
    aligned = []
    for index, (layer, (self_attention, cross_attention)) in enumerate(zip(decoder.layers, attentions)):
        source_keys, source_values, *caches = (
            inputs[f"{name}.{index}"] for name in ("source_keys", "source_values", "keys", "values")
        )

        def to_words(y: Var, attention=self_attention, caches=caches, index=index) -> Var:
            # each hypothesis has its own words
            queries, *new = of_words.heads(y, attention, "qkv")
            keys, values = (op.concat([op.gather(old, order), each], axis=2) for old, each in zip(caches, new))
            outputs[f"next_keys.{index}"], outputs[f"next_values.{index}"] = keys, values
            return of_words.attend(queries, keys, values, None, attention)

        def to_source(y: Var, attention=cross_attention, keys=source_keys, values=source_values, index=index) -> Var:
            # all hypotheses of an utterance share one source
            (queries,) = of_source.heads(y, attention, "q")
            scores = op.matmul(queries, op.transpose(keys, perm=[0, 1, 3, 2]))
            weights = of_source.weights(scores, source_mask, attention)
            heads = [head for layer, head in decoder.alignment if layer == index]
            if heads:
                aligned.append(op.reduce_sum(op.gather(weights, ints(*heads), axis=1), ints(1), keepdims=0))
            return of_source.gathered(weights, values, attention)

        x = of_words.residual(x, layer.self_attn_layer_norm, layer, to_words)
        x = of_words.residual(x, layer.encoder_attn_layer_norm, layer, to_source)
        x = of_words.residual(x, layer.final_layer_norm, layer, partial(of_words.feed_forward, layer=layer))
    if decoder.norm is not None:
        x = products.norm(x, decoder.norm)
    log_probs = op.log_softmax(products.linear(x, decoder.projection), axis=-1)
    log_probs = op.reshape(log_probs, op.concat([batch, beam, ints(-1)], axis=0))
    mean = op.mul(op.sum(aligned), number(1 / len(decoder.alignment)))
    return build(inputs, {"log_probs": log_probs, "attention": mean, **outputs})
