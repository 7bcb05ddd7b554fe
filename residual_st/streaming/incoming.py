"""Conversion of arriving audio of any sample rate and number of channels to the model's."""

import numpy as np
import soxr

from residual_st.audio.reading import as_floats, mixed
from residual_st.errors import InputError


class Incoming:
    """Resamples the pieces of a stream to one rate, without gaps between them.

    Args:
        wanted_rate: sample rate of the output in Hz.
    """

    def __init__(self, wanted_rate: int):
        self._wanted_rate = wanted_rate
        self._resampler: soxr.ResampleStream | None = None
        self._rate: int | None = None

    def samples(self, piece, rate: int | None = None) -> np.ndarray:
        """The next piece of a stream as mono float32 (n,). With resampling, a few samples are held back for the next call.

        Args:
            piece: floats in [-1, 1] or integers, (n,) or (n, channels), n may be 0; channels are averaged, or the loudest is used
                if they cancel each other.
            rate: sample rate in Hz; None for `wanted_rate`. It must be the same for all pieces of a stream.

        Raises:
            InputError: for other types or shapes, numbers that are not finite, or a changed rate.
        """
        rate = self._wanted_rate if rate is None else rate
        if self._rate not in (None, rate):
            raise InputError(f"the sample rate of the stream changed from {self._rate} Hz to {rate} Hz; start a new stream")
        mono = as_floats(np.asarray(piece))
        mono = mixed(mono) if mono.ndim == 2 else mono
        if not np.isfinite(mono).all():
            raise InputError("the stream contains samples that are not finite numbers")
        if self._rate is None and rate != self._wanted_rate:
            if not rate > 0:
                raise InputError(f"rate={rate} must be above 0 Hz")
            self._resampler = soxr.ResampleStream(rate, self._wanted_rate, 1, dtype="float32")
        self._rate = rate
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)

    def rest(self) -> np.ndarray:
        """The samples held back so far, at the end of a stream; the next piece belongs to a new stream."""
        empty = np.zeros(0, np.float32)
        last = empty if self._resampler is None else self._resampler.resample_chunk(empty, last=True)
        self._resampler = self._rate = None
        return last
