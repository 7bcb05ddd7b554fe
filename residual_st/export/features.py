"""Log-mel filterbanks as part of a graph: samples -> the features of `residual_st.fairseq.model_input.ModelInput`.

Kaldi subtracts the mean of a 25 ms frame, applies pre-emphasis (0.97), multiplies by a window and computes the Fourier transform.
All of this is linear, so it is one convolution, with 2 x 257 kernels of 400 samples at 16 kHz.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import spox.opset.ai.onnx.v21 as op
from spox import Var
from spox._future import initializer

from residual_st.export.constants import integer, ints, number
from residual_st.export.spectrum import energies, waves

FRAME_SECONDS, SHIFT_SECONDS = 0.025, 0.01
PRE_EMPHASIS = 0.97
LOWEST_HZ = 20.0
FULL_SCALE = 2.0**15  # Kaldi's samples have the range of 16-bit audio
LEAST_ENERGY = np.finfo(np.float32).eps
LEAST_VARIANCE = 1e-10

Transform = Callable[[Var, Var], Var]  # frames (batch, frames, bins), and (batch, frames, 1), 1 within each utterance -> frames


@dataclass(frozen=True)
class Filterbank:
    """Kaldi's filterbank at a sample rate in Hz, and the transforms applied to its frames."""

    sample_rate: int
    bins: int
    transforms: tuple[Transform, ...]

    @property
    def frame(self) -> int:
        """Samples per frame."""
        return int(self.sample_rate * FRAME_SECONDS)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next."""
        return int(self.sample_rate * SHIFT_SECONDS)

    @property
    def fft(self) -> int:
        """Size of the Fourier transform: a frame padded to a power of two."""
        return 1 << (self.frame - 1).bit_length()


def features(samples: Var, lengths: Var, filterbank: Filterbank) -> tuple[Var, Var]:
    """Frames of each utterance, padded with 0.

    Args:
        samples: (batch, n), float32 in [-1, 1].
        lengths: (batch,), int64, samples per utterance.

    Returns:
        Frames (batch, frames, bins), and the number of frames per utterance (batch,).
    """
    frames = log_mel(samples, filterbank)
    counts = op.add(op.div(op.sub(lengths, integer(filterbank.frame)), integer(filterbank.shift)), integer(1))
    longest = op.squeeze(op.shape(frames, start=1, end=2), ints(0))
    inside = op.unsqueeze(op.cast(mask_of(counts, longest), to=np.float32), ints(2))
    for transform in filterbank.transforms:
        frames = transform(frames, inside)
    return op.mul(frames, inside), counts


def log_mel(samples: Var, filterbank: Filterbank) -> Var:
    """(batch, n) -> (batch, frames, bins)"""
    bands = energies(samples, _kernels(filterbank), filterbank.frame, filterbank.shift, _mel_filters(filterbank))
    return op.log(op.max([bands, number(LEAST_ENERGY)]))


def normalised_by_utterance(frames: Var, inside: Var, *, means: bool, variances: bool) -> Var:
    """fairseq's `utterance_cmvn`: mean 0 and variance 1 in each bin of each utterance, or one of the two."""
    count = op.reduce_sum(inside, ints(1))
    mean = op.div(op.reduce_sum(op.mul(frames, inside), ints(1)), count)
    centred = op.mul(op.sub(frames, mean), inside)
    result = centred if means else frames
    if variances:
        variance = op.div(op.reduce_sum(op.mul(centred, centred), ints(1)), count)
        result = op.div(result, op.sqrt(op.max([variance, number(LEAST_VARIANCE)])))
    return result


def normalised_by_statistics(frames: Var, inside: Var, *, mean: np.ndarray, deviation: np.ndarray) -> Var:
    """fairseq's `global_cmvn`: by each bin's mean and standard deviation over a corpus, (bins,)."""
    centred = op.sub(frames, initializer(mean.astype(np.float32)))
    return op.div(centred, initializer(deviation.astype(np.float32)))


def mask_of(lengths: Var, longest: Var) -> Var:
    """(batch, longest), True within each length."""
    return op.less(op.range(integer(0), longest, integer(1)), op.unsqueeze(lengths, ints(1)))


def _kernels(filterbank: Filterbank) -> Var:
    """(2 * (fft / 2 + 1), frame): real, then imaginary parts of a frame's transform, including the steps before it."""
    length = filterbank.frame
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85
    windowed = op.mul(waves(length, filterbank.fft), initializer((window * FULL_SCALE).astype(np.float32)))
    # pre-emphasis: each sample minus 0.97 times its predecessor; the first is its own predecessor
    following = op.pad(op.slice(windowed, ints(1), ints(length), ints(1)), ints(0, 1), axes=ints(1))
    first = op.pad(op.slice(windowed, ints(0), ints(1), ints(1)), ints(0, length - 1), axes=ints(1))
    emphasised = op.sub(windowed, op.mul(op.add(following, first), number(PRE_EMPHASIS)))
    return op.sub(emphasised, op.reduce_mean(emphasised, ints(1)))


def _mel_filters(filterbank: Filterbank) -> Var:
    """(fft / 2 + 1, bins): triangles on Kaldi's mel scale, 1127 ln(1 + f / 700), between 20 Hz and half the rate."""
    rate, fft = filterbank.sample_rate, filterbank.fft
    edges = np.linspace(_mel(LOWEST_HZ), _mel(rate / 2), filterbank.bins + 2)
    bins = _mel(np.arange(fft // 2 + 1) * rate / fft)
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
