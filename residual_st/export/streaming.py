"""A streaming encoder with filterbank input as a graph: samples and caches in, states and caches out.

`residual_st.runtime.streaming` runs it. Nothing is computed twice: each convolution keeps the frames that it reads again, and each
layer the keys and values of some chunks.
"""

import math

import numpy as np
import onnx
import spox
import spox.opset.ai.onnx.v21 as op
from spox import Var
from torch import nn

from residual_st.compat import padding_of
from residual_st.export.build import build
from residual_st.export.constants import integer, ints, number
from residual_st.export.convolution import convolved_inside
from residual_st.export.encoder import behind_layers
from residual_st.export.features import Filterbank, log_mel
from residual_st.export.layers import Attention, Branches, chunk_mask, gated, sinusoids, transformer
from residual_st.export.products import Products
from residual_st.fairseq.chunks import strides_and_reach
from residual_st.fairseq.kinds import EncoderParts
from residual_st.runtime.streaming import Streaming


def streaming_form(encoder: EncoderParts, filterbank: Filterbank, chunk_frames: int, left_chunks: int, longest: float) -> Streaming:
    """The entry `streaming` of model.json for such a graph.

    Args:
        chunk_frames: encoder frames per chunk.
        left_chunks: number of earlier chunks that a chunk attends to.
        longest: maximum length in seconds of utterances that the model was trained on.

    Raises:
        InputError: if the encoder has parts that do not support streaming.
    """
    stride, reach = strides_and_reach(encoder.subsampler)
    attention = Attention.of(encoder.layers[0].self_attn)
    return Streaming(
        window=filterbank.frame,
        shift=filterbank.shift,
        stride=stride,
        reach=reach,
        chunk_frames=chunk_frames,
        left_chunks=left_chunks,
        longest_frames=math.ceil(longest * filterbank.sample_rate / (filterbank.shift * stride)),
        layers=len(encoder.layers),
        heads=attention.heads,
        head_width=attention.width,
        tails=[[padding_of(conv), conv.in_channels] for conv in encoder.subsampler.conv_layers],
    )


def streaming_graph(encoder: EncoderParts, filterbank: Filterbank, form: Streaming, precision: str) -> onnx.ModelProto:
    """A graph that encodes the next chunk of one recording.

    Inputs: `samples` (1, n), float32 in [-1, 1], from the first feature frame that was not encoded yet; `position` (), the number
    of encoder frames before; `last` (), 1 for the last chunk, else 0; the caches: `tail.I` (1, frames, width) of each convolution,
    `keys.L` and `values.L` (1, heads, frames, width / heads) of each layer.

    Outputs: `states` (1, time, width) and, with a CTC head, `ctc_log_probs` (1, time, vocabulary), for all encoder frames that the
    samples determine; the caches for the next chunk, `next_tail.I` and so on.
    """
    products = Products(precision)
    samples = spox.argument(spox.Tensor(np.float32, (1, "samples")))
    position, last = (spox.argument(spox.Tensor(np.int64, ())) for _ in range(2))
    inputs = {"samples": samples, "position": position, "last": last}
    outputs: dict[str, Var] = {}

    x = _frames(samples, filterbank)
    for place, conv in enumerate(encoder.subsampler.conv_layers):
        tail = inputs[f"tail.{place}"] = spox.argument(spox.Tensor(np.float32, (1, "frames", conv.in_channels)))
        x, outputs[f"next_tail.{place}"] = _convolved(op.concat([tail, x], axis=1), last, conv, products)
        x = gated(x)
    width, time = encoder.subsampler.conv_layers[-1].out_channels // 2, op.shape(x, start=1, end=2)
    end = op.add(position, op.squeeze(time, ints(0)))
    x = op.add(op.mul(x, number(encoder.scale)), sinusoids(op.range(position, end, integer(1)), width))

    shape = (1, form.heads, "past", form.head_width)
    pasts = {name: spox.argument(spox.Tensor(np.float32, shape)) for name in form.caches if not name.startswith("tail")}
    past = op.shape(pasts["keys.0"], start=2, end=3)

    def with_past(layer: int, keys: Var, values: Var) -> tuple[Var, Var]:
        joined = []
        for name, new in ((f"keys.{layer}", keys), (f"values.{layer}", values)):
            joined.append(op.concat([pasts[name], new], axis=2))
            outputs[f"next_{name}"] = op.slice(joined[-1], kept_from, all_frames, ints(2))
        return joined[0], joined[1]

    all_frames = op.add(past, time)
    kept_from = op.max([op.sub(all_frames, ints(form.left_chunks * form.chunk_frames)), ints(0)])
    mask = chunk_mask(op.squeeze(past, ints(0)), op.squeeze(time, ints(0)), form.chunk_frames, form.left_chunks)
    rows = op.reshape(x, ints(-1, width))
    rows = transformer(Branches(products, ints(1), time), rows, mask, encoder.layers, with_past)
    results = behind_layers(encoder, products, rows)
    widths = {"states": width} | ({"ctc_log_probs": encoder.ctc.out_features} if encoder.ctc is not None else {})
    results = {name: op.reshape(results[name], ints(1, -1, size)) for name, size in widths.items()}
    return build({**inputs, **pasts}, {**results, **outputs})


def _frames(samples: Var, filterbank: Filterbank) -> Var:
    """(1, n) -> (1, frames, bins), no frames if n is less than a window. One extra window is computed: a graph needs one."""
    frames = log_mel(op.pad(samples, ints(0, filterbank.shift), axes=ints(1)), filterbank)
    for transform in filterbank.transforms:
        frames = transform(frames, number(1.0))  # no padding
    return op.slice(frames, ints(0), ints(-1), ints(1))


def _convolved(x: Var, last: Var, conv: nn.Conv1d, products: Products) -> tuple[Var, Var]:
    """The known outputs of a convolution of x (1, time, width), and the frames of x that it reads again."""
    (size,), (stride,), padding = conv.kernel_size, conv.stride, padding_of(conv)
    x = op.pad(x, op.concat([ints(0), op.unsqueeze(op.mul(last, integer(padding)), ints(0))], axis=0), axes=ints(1))
    time = op.shape(x, start=1, end=2)
    read = op.mul(op.div(op.add(op.sub(time, ints(size)), ints(stride)), ints(stride)), ints(stride))
    return convolved_inside(x, conv, products), op.slice(x, read, time, ints(1))
