"""wav2vec 2.0 and HuBERT with a CTC head as a graph: samples in, log-probabilities of symbols out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from spox import Var
from torch import nn

from residual_st.compat import padding_of
from residual_st.errors import InputError
from residual_st.export.build import build
from residual_st.export.constants import integer, ints, number
from residual_st.export.features import mask_of
from residual_st.export.layers import Attention, Branches, activation_of, attention_mask
from residual_st.export.products import Products

if TYPE_CHECKING:
    from transformers import HubertForCTC, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

LEAST_VARIANCE = 1e-7  # added to the variance of samples by the feature extractor


def encoder_graph(model: Wav2Vec2ForCTC | HubertForCTC, extractor: Wav2Vec2FeatureExtractor, precision: str) -> onnx.ModelProto:
    """`samples` (batch, n) in [-1, 1] and `lengths` (batch,) -> `states` (batch, time, width), `state_lengths` (batch,) and
    `ctc_log_probs` (batch, time, vocabulary).

    Raises:
        InputError: if the model has unsupported parts.
    """
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    base: Any = model.base_model  # Wav2Vec2Model or HubertModel
    products = Products(precision)
    _require_known_parts(base)
    x = _normalised(samples, lengths) if extractor.do_normalize else samples
    x, counts = op.unsqueeze(x, ints(1)), lengths
    for layer in base.feature_extractor.conv_layers:
        x, counts = _frames(x, layer, products), _shorter(counts, layer.conv)
    x = op.transpose(x, perm=[0, 2, 1])
    batch, time = op.shape(x, start=0, end=1), op.shape(x, start=1, end=2)
    inside = mask_of(counts, op.squeeze(time, ints(0)))
    states = _encoded(base, products, x, batch, time, inside)
    log_probs = op.log_softmax(products.linear(states, model.lm_head), axis=-1)
    shape = op.concat([batch, time, ints(-1)], axis=0)
    outputs = {"states": op.reshape(states, shape), "state_lengths": counts, "ctc_log_probs": op.reshape(log_probs, shape)}
    return build({"samples": samples, "lengths": lengths}, outputs)


def shortest_samples(model: Wav2Vec2ForCTC | HubertForCTC) -> int:
    """Number of samples for one frame."""
    base: Any = model.base_model
    needed = 1
    for layer in reversed(base.feature_extractor.conv_layers):
        needed = (needed - 1) * layer.conv.stride[0] + layer.conv.kernel_size[0]
    return needed


def _require_known_parts(base: Any) -> None:
    unknown = {
        "add_adapter": getattr(base, "adapter", None),
        "conv_pos_batch_norm": getattr(base.encoder.pos_conv_embed, "batch_norm", None),
    }
    for name, part in unknown.items():
        if part is not None:
            raise InputError(f"a model with {name} in its config cannot be exported")


def _normalised(samples: Var, lengths: Var) -> Var:
    """Samples with mean 0 and variance 1 per utterance; padding is 0."""
    inside = op.cast(mask_of(lengths, op.squeeze(op.shape(samples, start=1, end=2), ints(0))), to=np.float32)
    count = op.unsqueeze(op.cast(lengths, to=np.float32), ints(1))
    centred = op.mul(op.sub(samples, op.div(op.reduce_sum(samples, ints(1)), count)), inside)
    variance = op.div(op.reduce_sum(op.mul(centred, centred), ints(1)), count)
    return op.div(centred, op.sqrt(op.add(variance, number(LEAST_VARIANCE))))


def _frames(x: Var, layer: Any, products: Products) -> Var:
    """Output of a layer of the feature extractor for x (batch, channels, time)."""
    x = _convolved(x, layer.conv, products)
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):  # with one group per channel
        x = op.instance_normalization(x, products.constant(norm.weight), products.constant(norm.bias), epsilon=norm.eps)
    elif norm is not None:
        x = op.transpose(products.norm(op.transpose(x, perm=[0, 2, 1]), norm), perm=[0, 2, 1])
    return activation_of(layer.activation)(x)


def _convolved(x: Var, conv: nn.Conv1d, products: Products) -> Var:
    """(batch, in, time) -> (batch, out, time), as a convolution: a product would need copies of overlapping windows."""
    (size,), (stride,), padding = conv.kernel_size, conv.stride, padding_of(conv)
    weight, bias = products.constant(conv.weight), products.constant(conv.bias)
    return op.conv(x, weight, bias, kernel_shape=[size], strides=[stride], pads=[padding, padding], group=conv.groups)


def _shorter(counts: Var, conv: nn.Conv1d) -> Var:
    (size,), (stride,) = conv.kernel_size, conv.stride
    return op.add(op.div(op.sub(counts, integer(size)), integer(stride)), integer(1))


def _encoded(base: Any, products: Products, x: Var, batch: Var, time: Var, inside: Var) -> Var:
    """Frames (batch, time, channels) -> states (batch * time, width)."""
    projection, encoder = base.feature_projection, base.encoder
    if hasattr(projection, "layer_norm"):
        x = products.norm(x, projection.layer_norm)
    width = projection.projection.out_features
    x = products.linear(op.reshape(x, ints(-1, projection.projection.in_features)), projection.projection)
    x = op.reshape(x, op.concat([batch, time, ints(width)], axis=0))
    x = op.mul(x, op.unsqueeze(op.cast(inside, to=np.float32), ints(2)))
    x = op.reshape(op.add(x, _positions(x, encoder.pos_conv_embed, time, products)), ints(-1, width))
    # the encoder's norm comes after pre-norm layers and before post-norm layers
    norms_first = type(encoder).__name__.endswith("StableLayerNorm")
    if not norms_first:
        x = products.norm(x, encoder.layer_norm)
    branches, mask = Branches(products, batch, time), attention_mask(inside)
    for layer in encoder.layers:
        x = _layer(branches, x, mask, layer, norms_first)
    return products.norm(x, encoder.layer_norm) if norms_first else x


def _positions(x: Var, embedding: Any, time: Var, products: Products) -> Var:
    """Positions for x (batch, time, width), from a convolution; with an even kernel it returns one extra frame."""
    y = _convolved(op.transpose(x, perm=[0, 2, 1]), embedding.conv, products)
    y = op.slice(y, ints(0), time, ints(2))
    return op.transpose(activation_of(embedding.activation)(y), perm=[0, 2, 1])


def _layer(branches: Branches, x: Var, mask: Var, layer: Any, norms_first: bool) -> Var:
    attention, products, units = Attention.of(layer.attention), branches.products, layer.feed_forward

    def attend(y: Var) -> Var:
        queries, keys, values = branches.heads(y, attention, "qkv")
        return branches.attend(queries, keys, values, mask, attention)

    def feed_forward(y: Var) -> Var:
        return products.feed_forward(y, units.intermediate_dense, activation_of(units.intermediate_act_fn), units.output_dense)

    for norm, branch in ((layer.layer_norm, attend), (layer.final_layer_norm, feed_forward)):
        x = op.add(x, branch(products.norm(x, norm))) if norms_first else products.norm(op.add(x, branch(x)), norm)
    adapter = getattr(layer, "adapter_layer", None)  # of one language (MMS)
    if adapter is not None:
        y = products.norm(x, adapter.norm)
        x = op.add(x, products.feed_forward(y, adapter.linear_1, activation_of(adapter.act_fn), adapter.linear_2))
    return x
