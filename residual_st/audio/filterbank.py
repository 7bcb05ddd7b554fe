"""Log-mel filterbanks as Kaldi computes them. Needs kaldi-native-fbank and no torch."""

import kaldi_native_fbank
import numpy as np

N_MEL_BINS = 80


class OnlineFilterbank:
    """Kaldi's log-mel filterbank for audio that arrives in pieces. Frames equal those of the whole audio; none are kept in memory.

    Args:
        sample_rate: in Hz.
    """

    def __init__(self, sample_rate: int, bins: int = N_MEL_BINS):
        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0.0
        options.frame_opts.samp_freq = sample_rate
        options.mel_opts.num_bins = bins
        self._computer, self._rate, self._bins, self._given = kaldi_native_fbank.OnlineFbank(options), sample_rate, bins, 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Mono samples in [-1, 1], shape (n,) -> float32 (frames, bins): the frames (25 ms, every 10 ms) that are now complete."""
        self._computer.accept_waveform(self._rate, samples * 2**15)  # Kaldi expects the range of 16-bit integers
        ready = self._computer.num_frames_ready
        frames = np.zeros((ready - self._given, self._bins), np.float32)
        for place, index in enumerate(range(self._given, ready)):
            frames[place] = self._computer.get_frame(index)  # in Kaldi's memory, which `pop` frees
        self._computer.pop(len(frames))
        self._given = ready
        return frames


def filterbank(samples: np.ndarray, sample_rate: int, bins: int = N_MEL_BINS) -> np.ndarray:
    """Kaldi's log-mel filterbank, as fairseq's `extract_fbank_features` computes it.

    Args:
        samples: mono audio in [-1, 1], shape (n,).
        sample_rate: in Hz.

    Returns:
        float32 of shape (frames, bins); frames of 25 ms every 10 ms, none if the audio is shorter than one.
    """
    return OnlineFilterbank(sample_rate, bins).feed(samples)
