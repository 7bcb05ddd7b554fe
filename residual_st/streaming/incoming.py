"""Samples as they come, of any rate and number of channels, as the model takes them."""

import numpy as np
import soxr

from residual_st.audio.reading import as_floats, mixed
from residual_st.errors import InputError


class Incoming:
    """Brings the pieces of a stream to one rate, without gaps between them.

    Args:
        wanted_rate: Hz, of what comes out.
    """

    def __init__(self, wanted_rate: int):
        self._wanted, self._resampler, self._rate = wanted_rate, None, None

    def samples(self, piece, rate: int | None = None) -> np.ndarray:
        """The next piece of a stream as mono float32 (n,): of another rate somewhat less than came in, the rest with the next one.

        Args:
            piece: floats in [-1, 1] or integers, (n,) or (n, channels), n may be 0; channels are averaged, or the loudest is taken
                where they cancel each other.
            rate: Hz; None for the wanted one. It must be that of the stream's first piece.

        Raises:
            InputError: for other types or shapes, numbers that are not finite, or another rate than before.
        """
        rate = self._wanted if rate is None else rate
        if self._rate not in (None, rate):
            raise InputError(f"the stream began with {self._rate} Hz, and now has {rate} Hz; begin another stream")
        mono = as_floats(np.asarray(piece))
        mono = mixed(mono) if mono.ndim == 2 else mono
        if not np.isfinite(mono).all():
            raise InputError("the stream has samples that are not finite numbers")
        if self._rate is None and rate != self._wanted:
            if not rate > 0:
                raise InputError(f"rate={rate} must be above 0 Hz")
            self._resampler = soxr.ResampleStream(rate, self._wanted, 1, dtype="float32")
        self._rate = rate
        return mono if self._resampler is None else self._resampler.resample_chunk(mono)

    def rest(self) -> np.ndarray:
        """What the last pieces still hold; the next piece may be of another stream."""
        empty = np.zeros(0, np.float32)
        last = empty if self._resampler is None else self._resampler.resample_chunk(empty, last=True)
        self._resampler = self._rate = None
        return last
