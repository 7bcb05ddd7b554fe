"""The speech encoder as a graph: samples in, states out."""

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from spox import Var

from residual_st.errors import InputError
from residual_st.export.constants import integer, ints, number
from residual_st.export.features import features, mask_of
from residual_st.export.layers import Branches, attention_mask, sinusoids
from residual_st.export.products import Products


def encoder_graph(encoder: S2TTransformerEncoder, precision: str) -> onnx.ModelProto:
    """`samples` (batch, n), float32 at 16 kHz in [-1, 1], and `lengths` (batch,) -> `states` (batch, time, width), their number
    `state_lengths` (batch,) and, where the model has a CTC head, `ctc_log_probs` (batch, time, vocabulary).

    Raises:
        InputError: if the encoder has parts that have no graph.
    """
    if not isinstance(encoder.subsample, Conv1dSubsampler):
        raise InputError("only encoders with --conv-version s2t_transformer can be exported")
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    frames, frame_counts = features(samples, lengths)
    branches = Branches(Products(precision))
    states, state_lengths = _encode(encoder, branches, frames, frame_counts)
    outputs = {"states": states, "state_lengths": state_lengths}
    if encoder.ctc_proj is not None:
        outputs["ctc_log_probs"] = op.log_softmax(branches.products.linear(states, encoder.ctc_proj), axis=-1)
    return spox.build({"samples": samples, "lengths": lengths}, outputs)


def _encode(encoder: S2TTransformerEncoder, branches: Branches, frames: Var, lengths: Var) -> tuple[Var, Var]:
    x = frames
    for conv in encoder.subsample.conv_layers:
        x = _strided(x, conv, branches.products)
        lengths = op.add(op.div(op.sub(lengths, integer(1)), integer(conv.stride[0])), integer(1))
    width = encoder.transformer_layers[0].embed_dim if len(encoder.transformer_layers) else x.unwrap_tensor().shape[-1]
    longest = op.squeeze(op.shape(x, start=1, end=2), ints(0))
    inside = mask_of(lengths, longest)
    positions = op.mul(
        sinusoids(op.range(integer(0), longest, integer(1)), width), op.unsqueeze(op.cast(inside, to=np.float32), ints(2))
    )
    x = op.add(op.mul(x, number(encoder.embed_scale)), positions)
    mask = attention_mask(inside)
    for layer in encoder.transformer_layers:
        attention = layer.self_attn

        def attend(y: Var, attention=attention) -> Var:
            return branches.attend(*(branches.heads(y, attention, letter) for letter in "qkv"), mask, attention)

        x = branches.residual(x, layer.self_attn_layer_norm, layer.normalize_before, attend)
        x = branches.residual(
            x, layer.final_layer_norm, layer.normalize_before, lambda y, layer=layer: branches.feed_forward(y, layer)
        )
    if encoder.layer_norm is not None:
        x = branches.products.norm(x, encoder.layer_norm)
    return x, lengths


def _strided(x: Var, conv, products: Products) -> Var:
    """A strided convolution and its gate, as one product with windows: (batch, time, in) -> (batch, shorter time, out / 2)."""
    (size,), (stride,), (padding,) = conv.kernel_size, conv.stride, conv.padding
    padded = op.pad(x, ints(padding, padding), axes=ints(1))
    length = op.shape(padded, start=1, end=2)
    last = op.sub(length, ints(size - 1))  # behind the first frame of the last window
    taps = [op.slice(padded, ints(tap), op.add(last, ints(tap)), ints(1), ints(stride)) for tap in range(size)]
    weight = conv.weight.detach().transpose(1, 2).flatten(1)  # (out, size * in)
    y = op.add(products.multiply(op.concat(taps, axis=2), weight), products.constant(conv.bias))
    values, gates = op.split(y, num_outputs=2, axis=2)
    return op.mul(values, op.sigmoid(gates))
