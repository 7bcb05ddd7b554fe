"""Log-mel filterbanks as part of a graph: 16 kHz samples -> what `residual_st.filterbank` and `utterance_cmvn` compute.

Kaldi takes the mean off a frame of 25 ms, takes 0.97 of each sample off the next, multiplies by a window and transforms. All of
this is linear: one convolution with 2 x 257 kernels of 400 samples.
"""

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var
from spox._future import initializer

from residual_st.export.constants import integer, ints, number
from residual_st.export.spectrum import energies, waves
from residual_st.filterbank import N_MEL_BINS

SAMPLE_RATE = 16_000
FRAME, SHIFT, FFT = 400, 160, 512  # samples
PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
FULL_SCALE = 2.0**15  # Kaldi's samples are those of 16-bit audio
LEAST_ENERGY = np.finfo(np.float32).eps
LEAST_VARIANCE = 1e-10


def features(samples: Var, lengths: Var) -> tuple[Var, Var]:
    """Normalised filterbanks of each utterance, 0 behind its end.

    Args:
        samples: (batch, n), float32 in [-1, 1].
        lengths: (batch,), int64, samples of each.

    Returns:
        (batch, frames, 80), and the number of frames of each, (batch,).
    """
    bands = energies(samples, _kernels(), FRAME, SHIFT, _mel_filters())
    logs = op.log(op.max([bands, number(LEAST_ENERGY)]))
    frames = op.add(op.div(op.sub(lengths, integer(FRAME)), integer(SHIFT)), integer(1))
    return _normalised(logs, frames), frames


def mask_of(lengths: Var, longest: Var) -> Var:
    """(batch, longest), True within each length."""
    return op.less(op.range(integer(0), longest, integer(1)), op.unsqueeze(lengths, ints(1)))


def _normalised(logs: Var, frames: Var) -> Var:
    """Mean 0 and variance 1 in each bin of each utterance, as fairseq's `utterance_cmvn` has it."""
    longest = op.squeeze(op.shape(logs, start=1, end=2), ints(0))
    inside = op.unsqueeze(op.cast(mask_of(frames, longest), to=np.float32), ints(2))
    count = op.reshape(op.cast(frames, to=np.float32), ints(-1, 1, 1))
    mean = op.div(op.reduce_sum(op.mul(logs, inside), ints(1)), count)
    centred = op.mul(op.sub(logs, mean), inside)
    variance = op.div(op.reduce_sum(op.mul(centred, centred), ints(1)), count)
    return op.div(centred, op.sqrt(op.max([variance, number(LEAST_VARIANCE)])))


def _kernels() -> Var:
    """(2 * 257, 400): real parts, then imaginary parts, of the transform of a frame, with all that comes before it."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) ** 0.85
    windowed = op.mul(waves(FRAME, FFT), initializer((window * FULL_SCALE).astype(np.float32)))
    # each sample goes into its own place and, times -0.97, into the next one's; the first is its own predecessor
    following = op.pad(op.slice(windowed, ints(1), ints(FRAME), ints(1)), ints(0, 1), axes=ints(1))
    first = op.pad(op.slice(windowed, ints(0), ints(1), ints(1)), ints(0, FRAME - 1), axes=ints(1))
    emphasised = op.sub(windowed, op.mul(op.add(following, first), number(PRE_EMPHASIS)))
    return op.sub(emphasised, op.reduce_mean(emphasised, ints(1)))


def _mel_filters() -> Var:
    """(257, 80): triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), between 20 Hz and half the rate."""
    edges = np.linspace(_mel(LOWEST_HZ), _mel(SAMPLE_RATE / 2), N_MEL_BINS + 2)
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)
    bins[-1] = edges[-1]  # Kaldi leaves out the last bin
    sides = [
        op.mul(op.sub(initializer(places.astype(np.float32)), initializer(others.astype(np.float32))), initializer(slopes))
        for places, others, slopes in (
            (bins[:, None], edges[:-2], (1 / np.diff(edges)[:-1]).astype(np.float32)),
            (edges[2:], bins[:, None], (1 / np.diff(edges)[1:]).astype(np.float32)),
        )
    ]
    return op.max([op.min(sides), number(0.0)])


def _mel(hertz):
    return 1127 * np.log1p(np.asarray(hertz) / 700)
