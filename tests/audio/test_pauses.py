"""Recordings are split at pauses, and pieces contain only speech."""

from pathlib import Path

import numpy as np
import pytest

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import spans_between_pauses, split_at_pauses
from residual_st.audio.reading import read_audio, resample
from residual_st.errors import InputError

SPEECH = Path(__file__).parent.parent / "speech"
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A man's sentence, without the silence at both ends."""
    return read_audio(SPEECH / "arctic_a0007.wav", RATE)[6400:57600]


@pytest.fixture(scope="module")
def reply() -> np.ndarray:
    return read_audio(SPEECH / "arctic_a0009.wav", RATE)[3200:48000]


def noise(seconds: float, exponent: float = 0.0, level: float = -30.0) -> np.ndarray:
    """White noise for exponent 0, pink for 0.5, brown for 1; `level` is in dB relative to full scale."""
    size = round(seconds * RATE)
    spectrum = np.fft.rfft(np.random.default_rng(1).standard_normal(size))
    spectrum /= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 20) ** exponent
    samples = np.fft.irfft(spectrum, size)
    return (samples / samples.std() * 10 ** (level / 20)).astype(np.float32)


def tones(*frequencies: float) -> np.ndarray:
    time = np.arange(2 * RATE) / RATE
    return np.concatenate([0.1 * np.sin(2 * np.pi * each * time).astype(np.float32) for each in frequencies])


def hum() -> np.ndarray:
    time = np.arange(8 * RATE) / RATE
    return sum(0.02 / number * np.sin(2 * np.pi * 50 * number * time) for number in range(1, 20)).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050])
@pytest.mark.parametrize("count", [2, 5])
def test_recordings_of_any_length_are_split_at_pauses(speech, reply, count, rate):
    pause = noise(0.5, 0.5, -60)
    talk = np.concatenate([part for index in range(count) for part in (pause, (speech, reply)[index % 2])])
    spans = spans_between_pauses(resample(talk, RATE, rate), rate, Lengths(30.0))
    assert len(spans) == count
    end = 0
    for index, (start, stop) in enumerate(spans):
        begin = end + len(pause)
        end = begin + len((speech, reply)[index % 2])
        assert start * RATE / rate == pytest.approx(begin, abs=0.25 * RATE)
        assert stop * RATE / rate == pytest.approx(end, abs=0.25 * RATE)


def test_pieces_are_joined_up_to_the_length_that_a_model_prefers(speech, reply):
    talk = np.concatenate([speech, noise(0.5, 0.5, -60), reply, noise(0.5, 0.5, -60), speech, noise(4, 0.5, -60), reply])
    assert len(split_at_pauses(talk, RATE, Lengths(30.0))) == 4
    joined = split_at_pauses(talk, RATE, Lengths(30.0, joined=30.0))
    assert [len(piece) > 2.5 * len(speech) for piece in joined] == [True, False], "not joined across 4 s of silence"
    assert len(split_at_pauses(talk, RATE, Lengths(30.0, joined=8.0))) == 3


def test_short_last_piece_of_a_partial_recording_is_kept_apart(speech, reply):
    """It may be the beginning of a longer sentence."""
    partial = np.concatenate([speech, noise(0.5, 0.5, -60), reply[: round(0.9 * RATE)]])
    assert len(split_at_pauses(partial, RATE, Lengths(30.0))) == 1
    assert len(spans_between_pauses(partial, RATE, Lengths(30.0), is_partial=True)) == 2
    assert len(spans_between_pauses(partial, RATE, Lengths(30.0, 30.0), is_partial=True)) == 1
    short = np.concatenate([reply[: round(0.7 * RATE)], noise(0.5, 0.5, -60), speech])
    assert len(spans_between_pauses(short, RATE, Lengths(30.0), is_partial=True)) == 1


@pytest.mark.parametrize("level", [-20, -45])
def test_quiet_and_noisy_speech_is_detected(speech, level):
    quiet = speech * 10 ** (level / 20)
    for background in (0, noise(len(speech) / RATE, 0.5, 20 * np.log10(quiet.std()) - 5)):
        spans = spans_between_pauses(quiet + background, RATE, Lengths(15.0))
        assert sum(end - start for start, end in spans) > 0.8 * len(speech)


@pytest.mark.parametrize(
    "sound",
    [
        lambda: np.zeros(8 * RATE, np.float32),
        lambda: noise(8, level=-60),
        lambda: noise(8, level=-10),
        lambda: noise(8, 0.5),
        lambda: noise(8, 1),
        lambda: noise(8) * (np.arange(8 * RATE) // 1600 % 3 == 0),
        hum,
        lambda: tones(220, 330, 440, 660),
        lambda: np.zeros(0, np.float32),
        lambda: noise(0.03),
    ],
    ids=["zeros", "faint", "white", "pink", "brown", "bursts", "hum", "tones", "nothing", "one frame"],
)
def test_sound_without_speech_gives_no_pieces(sound):
    assert spans_between_pauses(sound(), RATE, Lengths(15.0)) == []


def test_silence_around_speech_is_left_out(speech):
    talk = np.concatenate([np.zeros(6 * RATE, np.float32), speech, np.zeros(6 * RATE, np.float32)])
    ((start, end),) = spans_between_pauses(talk, RATE, Lengths(15.0))
    assert 6 * RATE <= start < 6.3 * RATE
    assert 6 * RATE + 0.9 * len(speech) < end <= 6 * RATE + len(speech)


def test_speech_without_a_pause_is_cut_where_it_is_quietest(speech):
    talk = np.concatenate([speech] * 5)
    (whole,) = spans_between_pauses(talk, RATE, Lengths(60.0))
    pieces = spans_between_pauses(talk, RATE, Lengths(4.0))
    assert len(pieces) > 1
    assert (pieces[0][0], pieces[-1][1]) == whole
    assert all(one[1] == next_one[0] for one, next_one in zip(pieces, pieces[1:]))
    assert all(0.5 * RATE < end - start <= 4 * RATE for start, end in pieces)
    assert all(end > start for start, end in spans_between_pauses(talk, RATE, Lengths(0.01))), "it terminates"


def test_longest_seconds_is_limited_to_what_the_model_accepts():
    lengths = Lengths(15.0, joined=15.0)
    assert lengths.limited(None, 60) == lengths
    assert lengths.limited(None, 8) == Lengths(8, 8)
    assert lengths.limited(5, 60) == Lengths(5, 5)
    for seconds in (0, 0.02, 61, float("nan")):
        with pytest.raises(InputError, match=f"longest_seconds={seconds:g} must be at least 1 and, for this model, at most 60"):
            lengths.limited(seconds, 60)
