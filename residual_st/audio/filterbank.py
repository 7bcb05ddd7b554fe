"""Log-mel filterbanks as Kaldi computes them. Needs kaldi-native-fbank and no torch."""

import kaldi_native_fbank
import numpy as np

N_MEL_BINS = 80


def filterbank(samples: np.ndarray, sample_rate: int, bins: int = N_MEL_BINS) -> np.ndarray:
    """Kaldi's log-mel filterbank, as fairseq's `extract_fbank_features` computes it.

    Args:
        samples: mono audio in [-1, 1], shape (n,).
        sample_rate: in Hz.

    Returns:
        float32 of shape (frames, bins); frames of 25 ms every 10 ms, none if the audio is shorter than one.
    """
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = sample_rate
    options.mel_opts.num_bins = bins
    computer = kaldi_native_fbank.OnlineFbank(options)
    computer.accept_waveform(sample_rate, samples * 2**15)  # Kaldi expects the range of 16-bit integers
    computer.input_finished()
    frames = [computer.get_frame(index) for index in range(computer.num_frames_ready)]
    return np.stack(frames) if frames else np.zeros((0, bins), np.float32)
