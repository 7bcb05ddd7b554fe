"""Energies of frames in frequency bands, as one convolution and one product.

The kernels are computed from a table of one wave when the graph is loaded: stored, they would be larger than the shared matrices of
some small encoders.
"""

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var
from spox._future import initializer

from residual_st.export.constants import integer, ints


def waves(length: int, fft: int) -> Var:
    """(2 * (fft / 2 + 1), length): cosines, then sines, of the transform of `fft` samples, of which the first `length` are used."""
    angle = 2 * np.pi * np.arange(fft) / fft
    frequencies, times = (op.range(integer(0), integer(count), integer(1)) for count in (fft // 2 + 1, length))
    places = op.mod(op.mul(op.unsqueeze(frequencies, ints(1)), times), integer(fft))
    return op.concat([op.gather(initializer(wave(angle).astype(np.float32)), places) for wave in (np.cos, np.sin)], axis=0)


def energies(samples: Var, kernels: Var, length: int, hop: int, filters: Var) -> Var:
    """Energies of frames of `length` samples every `hop` samples: (batch, n) -> (batch, frames, bands).

    Args:
        kernels: `waves`, multiplied by a window: (2 * bins, length).
        filters: (bins, bands).
    """
    spectrum = op.conv(op.unsqueeze(samples, ints(1)), op.unsqueeze(kernels, ints(1)), strides=[hop], kernel_shape=[length])
    parts = op.reshape(op.mul(spectrum, spectrum), op.concat([ints(0, 2), op.shape(filters, start=0, end=1), ints(-1)], axis=0))
    power = op.reduce_sum(parts, ints(1), keepdims=0)
    return op.matmul(op.transpose(power, perm=[0, 2, 1]), filters)
