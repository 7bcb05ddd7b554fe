"""Reading audio of any sample rate, number of channels, sample type and length."""

import io
import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from residual_st.audio.filterbank import filterbank
from residual_st.audio.reading import read_audio, resample
from residual_st.errors import InputError

SPEECH = Path(__file__).parent.parent / "speech" / "arctic_a0007.wav"
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return soundfile.read(SPEECH, dtype="float32")[0]


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_100, 48_000])
def test_resampled_file_has_the_filterbanks_of_the_original(speech, tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", soxr.resample(speech, RATE, rate, "VHQ"), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "a.wav", RATE)
    assert len(samples) == pytest.approx(len(speech), abs=2)
    resampled, original = (filterbank(x, RATE)[:250] for x in (samples, speech))
    loud = original > np.percentile(original, 50)
    assert np.abs(resampled - original)[:, :70][loud[:, :70]].mean() < 0.02  # without the bands at the filter's cutoff
    without_resampling = filterbank(soxr.resample(speech, RATE, rate), RATE)[:250]
    assert np.abs(without_resampling - original).mean() > 0.5, "features of audio whose rate is ignored differ"


def test_audio_at_8_khz_keeps_the_bands_below_its_limit(speech):
    narrow = soxr.resample(speech, RATE, 8000)
    upsampled, original = (filterbank(x, RATE)[:250] for x in (resample(narrow, 8000, RATE), speech))
    loud = original > np.percentile(original, 50)
    assert np.abs(upsampled - original)[:, :55][loud[:, :55]].mean() < 0.05  # up to 3.5 kHz


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.astype(np.float64),
        lambda x: np.round(x * 2**15).astype(np.int16),
        lambda x: np.round(x * 2**31).astype(np.int64).clip(-(2**31), 2**31 - 1).astype(np.int32),
        lambda x: np.stack([x, x], axis=1),
        lambda x: np.stack([x, x], axis=0),
        lambda x: x[None],
        lambda x: torch.from_numpy(x),
        lambda x: torch.from_numpy(x)[None],
        lambda x: torch.from_numpy(np.stack([2 * x, 0 * x])),
        lambda x: SPEECH,
        lambda x: str(SPEECH),
    ],
)
def test_every_array_type_and_shape_gives_the_same_samples(speech, convert):
    samples = read_audio(convert(speech), RATE)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, speech, atol=2e-5)


def test_8_bit_samples_are_scaled(speech):
    np.testing.assert_allclose(read_audio(np.round(speech * 127 + 128).astype(np.uint8), RATE), speech, atol=0.01)


def test_arrays_are_resampled_and_stereo_files_are_mixed(speech, tmp_path):
    fast = soxr.resample(speech, RATE, 48_000)
    np.testing.assert_allclose(read_audio(fast, RATE, 48_000), resample(fast, 48_000, RATE))
    soundfile.write(tmp_path / "stereo.flac", np.stack([speech, speech], 1), RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "stereo.flac", RATE), speech, atol=1e-4)


@pytest.mark.parametrize(("name", "codec", "rate"), [("memo.m4a", "aac", RATE), ("memo.webm", "libopus", 48_000)])
def test_phone_and_browser_recordings_are_read_with_av(speech, tmp_path, monkeypatch, name, codec, rate):
    av = pytest.importorskip("av")
    with av.open(tmp_path / name, "w") as recording:
        stream = recording.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([speech, speech]), format="fltp", layout="stereo")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            recording.mux(packet)
    samples = read_audio(tmp_path / name, RATE)
    assert len(samples) == pytest.approx(len(speech), abs=0.1 * RATE)
    decoded, original = (filterbank(x, RATE).mean(axis=0) for x in (samples, speech))
    assert np.abs(decoded - original)[:70].mean() < 0.5

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=rf"{name} cannot be read as audio: Format not recognised; pip install av"):
        read_audio(tmp_path / name, RATE)


def test_wav_with_the_unknown_length_of_a_pipe_is_read_to_its_end(speech, tmp_path, monkeypatch):
    whole = SPEECH.read_bytes()
    at = whole.index(b"data") + 4
    for length in (2**32 - 1, 0):
        (tmp_path / "piped.wav").write_bytes(whole[:at] + length.to_bytes(4, "little") + whole[at + 4 :])
        np.testing.assert_allclose(read_audio(tmp_path / "piped.wav", RATE), speech, atol=1e-6)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="its header says that it contains no samples"):
        read_audio(tmp_path / "piped.wav", RATE)


def test_named_pipe_is_read(speech, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(SPEECH.read_bytes(),))
    writer.start()
    np.testing.assert_array_equal(read_audio(tmp_path / "pipe", RATE), speech)
    writer.join()


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("nowhere.wav", "nowhere.wav cannot be read as audio: No such file or directory"),
        (Path(__file__), "test_audio.py cannot be read as audio: Format not recognised"),
        (io.BytesIO(b"no audio"), "the recording cannot be read as audio: Format not recognised"),
        (io.BytesIO(b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/hostname\n"), "cannot be read as audio"),
        (np.zeros((2, 3, 4), np.float32), r"not float32 of shape \(2, 3, 4\)"),
        (np.array(["a", "b"]), "audio must be a file or samples"),
        (np.array([0.0, np.nan]), "not finite"),
    ],
)
def test_unreadable_audio_is_refused(audio, message):
    with pytest.raises(InputError, match=message):
        read_audio(audio, RATE)


@pytest.mark.parametrize("form", ["wav", "array"])
def test_loudest_channel_is_kept_if_channels_cancel(speech, tmp_path, form):
    inverted = np.stack([speech, -0.98 * speech], 1)
    soundfile.write(tmp_path / "inverted.wav", inverted, RATE, subtype="FLOAT")
    samples = read_audio(tmp_path / "inverted.wav" if form == "wav" else inverted, RATE)
    np.testing.assert_allclose(samples, speech, atol=1e-6)
    np.testing.assert_allclose(read_audio(np.stack([speech, 0 * speech], 1), RATE), speech / 2, atol=1e-6)
