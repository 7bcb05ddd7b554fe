import numpy as np
import soundfile
import yaml

from residual_st.audio.filterbank import filterbank


def test_features_follow_kaldis_formulas(data):
    """Compared with Kaldi's formulas written out in numpy, on one segment."""
    segment = yaml.safe_load((data / "data/dev/txt/dev.yaml").read_text())[0]
    start, length = int(segment["offset"] * 16_000), int(segment["duration"] * 16_000)
    samples, _ = soundfile.read(data / "data/dev/wav" / segment["wav"], start=start, frames=length)
    frames = np.lib.stride_tricks.sliding_window_view(samples * 2**15, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2

    def mel(hertz):
        return 1127 * np.log1p(hertz / 700)

    edges = np.linspace(mel(20), mel(8000), 82)
    bins = mel(np.arange(257) * 16_000 / 512)
    up = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    banks = np.maximum(0, np.minimum(up, down))[:, :256]
    expected = np.log(np.maximum(power[:, :256] @ banks.T, 1.19209e-07))
    assert np.abs(filterbank(samples.astype(np.float32), 16_000) - expected).max() < 2e-2


def test_audio_shorter_than_a_frame_has_no_frames():
    assert filterbank(np.zeros(399, np.float32), 16_000).shape == (0, 80)
    assert filterbank(np.zeros(400, np.float32), 16_000).shape == (1, 80)
