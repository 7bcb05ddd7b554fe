"""An encoder with filterbank input as a graph: samples in, states out."""

from collections.abc import Callable

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from fairseq.models.speech_to_text.s2t_transformer import Conv1dSubsampler
from fairseq.modules.conformer_layer import ConformerEncoderLayer
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from spox import Var
from torch import nn

from residual_st.errors import InputError
from residual_st.export.build import build
from residual_st.export.conformer import conformer
from residual_st.export.constants import integer, ints, number
from residual_st.export.convolution import convolved
from residual_st.export.features import Filterbank, features, mask_of
from residual_st.export.layers import Branches, Layers, attention_mask, chunk_mask, gated, sinusoids, transformer
from residual_st.export.products import Products
from residual_st.fairseq.kinds import EncoderParts

# class of layers -> function (branches, x (batch * time, width), mask from `attention_mask`, layers) -> output of the layers
_GRAPHS = {TransformerEncoderLayerBase: transformer, ConformerEncoderLayer: conformer}


def encoder_graph(encoder: EncoderParts, filterbank: Filterbank, precision: str) -> onnx.ModelProto:
    """A graph of `samples` (batch, n), float32 in [-1, 1] at the filterbank's rate, and `lengths` (batch,).

    Its outputs are `states` (batch, time, width), their number `state_lengths` (batch,) and, with a CTC head, `ctc_log_probs`
    (batch, time, vocabulary). As in fairseq, convolutions near the end of a shorter utterance read its padding.

    Raises:
        InputError: if the encoder has unsupported parts.
    """
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    outputs = encoded(encoder, Products(precision), *features(samples, lengths, filterbank))
    return build({"samples": samples, "lengths": lengths}, outputs)


def encoded(encoder: EncoderParts, products: Products, frames: Var, counts: Var) -> dict[str, Var]:
    """The outputs of the graph for frames (batch, frames, bins) and their number (batch,)."""
    x, lengths, width = _subsampled(encoder.subsampler, products, frames, counts)
    batch, time = op.shape(x, start=0, end=1), op.shape(x, start=1, end=2)
    longest = op.squeeze(time, ints(0))
    inside = mask_of(lengths, longest)
    x = op.mul(x, number(encoder.scale))
    if encoder.has_positions:
        x = op.add(x, _positions(time, inside, width))
    x = op.reshape(x, ints(-1, width))
    if encoder.projection is not None:
        x = products.linear(x, encoder.projection)
    mask, chunks = attention_mask(inside), encoder.chunks
    if chunks and chunks.frames[0]:
        mask = op.add(mask, chunk_mask(0, longest, chunks.frames[0], chunks.left))
    x = _layers(encoder.layers)(Branches(products, batch, time), x, mask, encoder.layers)
    shape = op.concat([batch, time, ints(-1)], axis=0)
    outputs = {name: op.reshape(rows, shape) for name, rows in behind_layers(encoder, products, x).items()}
    return {**outputs, "state_lengths": lengths}


def behind_layers(encoder: EncoderParts, products: Products, x: Var) -> dict[str, Var]:
    """`states` and, with a CTC head, `ctc_log_probs`, as rows, from the output of the layers (batch * time, width)."""
    states = x if encoder.norm is None else products.norm(x, encoder.norm)
    if encoder.ctc is None:
        return {"states": states}
    return {"states": states, "ctc_log_probs": op.log_softmax(products.linear(states, encoder.ctc), axis=-1)}


def _subsampled(subsampler: nn.Module, products: Products, x: Var, lengths: Var) -> tuple[Var, Var, int]:
    """Frames (batch, time, bins) and their number (batch,) -> (batch, shorter time, width), their number, and the width."""
    if not isinstance(subsampler, Conv1dSubsampler):
        raise InputError("only encoders with --conv-version s2t_transformer can be exported")
    for conv in subsampler.conv_layers:
        x = gated(convolved(x, conv, products))
        lengths = op.add(op.div(op.sub(lengths, integer(1)), integer(conv.stride[0])), integer(1))
    return x, lengths, subsampler.conv_layers[-1].out_channels // 2


def _layers(layers: Layers) -> Callable:
    kind = next((kind for kind in _GRAPHS if all(isinstance(layer, kind) for layer in layers)), None)
    if kind is None:
        raise InputError(f"an encoder with {type(layers[0]).__name__} cannot be exported")
    return _GRAPHS[kind]


def _positions(time: Var, inside: Var, width: int) -> Var:
    """(batch, time, width); padding has none."""
    positions = sinusoids(op.range(integer(0), op.squeeze(time, ints(0)), integer(1)), width)
    return op.mul(positions, op.unsqueeze(op.cast(inside, to=np.float32), ints(2)))
