"""fairseq's speech encoder as a graph: samples in, states out."""

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from fairseq.models.speech_to_text.modules.convolution import Conv1dSubsampler
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from spox import Var

from residual_st.errors import InputError
from residual_st.export.build import build
from residual_st.export.constants import integer, ints, number
from residual_st.export.convolution import convolved
from residual_st.export.features import Filterbank, features, mask_of
from residual_st.export.layers import Branches, attention_mask, sinusoids
from residual_st.export.products import Products


def encoder_graph(encoder: S2TTransformerEncoder, filterbank: Filterbank, precision: str) -> onnx.ModelProto:
    """A graph of `samples` (batch, n), float32 in [-1, 1] at the filterbank's rate, and `lengths` (batch,).

    Its outputs are `states` (batch, time, width), their number `state_lengths` (batch,) and, where the model has a CTC head,
    `ctc_log_probs` (batch, time, vocabulary).

    Raises:
        InputError: if the encoder has parts that have no graph.
    """
    if not isinstance(encoder.subsample, Conv1dSubsampler):
        raise InputError("only encoders with --conv-version s2t_transformer can be exported")
    samples = spox.argument(spox.Tensor(np.float32, ("batch", "samples")))
    lengths = spox.argument(spox.Tensor(np.int64, ("batch",)))
    frames, frame_counts = features(samples, lengths, filterbank)
    products = Products(precision)
    states, state_lengths, shape = _encode(encoder, products, frames, frame_counts)
    outputs = {"states": op.reshape(states, op.concat([*shape, ints(-1)], axis=0)), "state_lengths": state_lengths}
    if encoder.ctc_proj is not None:
        log_probs = op.log_softmax(products.linear(states, encoder.ctc_proj), axis=-1)
        outputs["ctc_log_probs"] = op.reshape(log_probs, op.concat([*shape, ints(-1)], axis=0))
    return build({"samples": samples, "lengths": lengths}, outputs)


def _encode(encoder: S2TTransformerEncoder, products: Products, frames: Var, lengths: Var) -> tuple[Var, Var, tuple[Var, Var]]:
    """States (batch * time, width), their number (batch,), and batch and time, (1,) each."""
    x = frames
    for conv in encoder.subsample.conv_layers:
        values, gates = op.split(convolved(x, conv, products), num_outputs=2, axis=2)
        x = op.mul(values, op.sigmoid(gates))
        lengths = op.add(op.div(op.sub(lengths, integer(1)), integer(conv.stride[0])), integer(1))
    batch, time = op.shape(x, start=0, end=1), op.shape(x, start=1, end=2)
    width = encoder.subsample.conv_layers[-1].out_channels // 2
    longest = op.squeeze(time, ints(0))
    inside = mask_of(lengths, longest)
    positions = sinusoids(op.range(integer(0), longest, integer(1)), width)
    positions = op.mul(positions, op.unsqueeze(op.cast(inside, to=np.float32), ints(2)))  # padding has none
    x = op.reshape(op.add(op.mul(x, number(encoder.embed_scale)), positions), ints(-1, width))
    mask, branches = attention_mask(inside), Branches(products, batch, time)
    for layer in encoder.transformer_layers:
        x = branches.encoder_layer(x, layer, mask)
    if encoder.layer_norm is not None:
        x = products.norm(x, encoder.layer_norm)
    return x, lengths, (batch, time)
