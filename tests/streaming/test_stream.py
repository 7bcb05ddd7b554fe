"""Texts of streams, compared with those of whole recordings."""

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from os.path import commonprefix

import numpy as np
import pytest
import soxr
from streams import RATE, SPEECH, assert_texts_only_grow, quiet, segments_of, talk, updates_of, without_pauses

from residual_st.audio.lengths import Lengths
from residual_st.errors import InputError
from residual_st.runtime import Settings
from residual_st.runtime.model import Model
from residual_st.streaming import POLICIES, Stream
from residual_st.streaming.sources import GrowingWindows
from residual_st.streaming.texts import DecodedTexts

SHORT_TEXTS = Settings(beam=2, max_len_b=12)
OF_DECODERS = [name for name, policy in POLICIES.items() if not policy.is_of_ctc]


@pytest.fixture
def model(exported):
    return Model(exported)


@pytest.mark.parametrize("policy", OF_DECODERS)
def test_committed_text_only_grows_within_a_window(policy, model):
    updates = updates_of(Stream(model, policy, SHORT_TEXTS, chunk_seconds=0.5), talk())
    assert_texts_only_grow(updates)
    segments = segments_of(updates)
    assert len(segments) == 2
    for segment, spoken, begins in zip(segments, SPEECH, (0.7, 0.7 + len(SPEECH[0]) / RATE + 0.6)):
        assert begins - 0.2 < segment.start < begins + 0.5
        assert begins + 0.5 * len(spoken) / RATE < segment.end < begins + len(spoken) / RATE + 0.3
    assert [update.seconds for update in updates[:-1]] == [0.5 * step for step in range(1, len(updates))]


@pytest.mark.parametrize("name", ["exported", "streaming"])
def test_windows_have_the_texts_of_recordings(name, request):
    """With an encoder that recomputes each window, and with one that runs chunk by chunk."""
    model, sound = Model(request.getfixturevalue(name)), talk()
    for segment in segments_of(updates_of(Stream(model, "retranslation", SHORT_TEXTS), sound)):
        window = sound[round(segment.start * RATE) : round(segment.end * RATE)]
        assert segment.text == model.vocabulary.text(model.search([window], SHORT_TEXTS)[0][0].tokens)


def test_chunked_encoder_has_all_states_of_a_window_that_ends_earlier(streaming):
    """A window ends with its speech, which may turn out to have ended earlier."""
    model, frame = Model(streaming), 640
    windows = GrowingWindows(model, model.decoder_source_of)
    seemed, end = 22 * frame, 21 * frame  # in chunks of four
    assert windows.encoded(SPEECH[0], 0, seemed, is_last=False).states == 20
    assert windows.encoded(SPEECH[0], 0, end, is_last=True).states == 21


def test_step_without_a_new_chunk_is_skipped(streaming, monkeypatch):
    """Two searches over the same states would agree on everything."""
    steps, searched, encoded, candidate = [], [], GrowingWindows.encoded, DecodedTexts.candidate

    def recorded(self, samples, start, end, is_last):
        result = encoded(self, samples, start, end, is_last)
        if result is not None:
            steps.append((start, result.states, end))
        return result

    def searched_in(self, *arguments):
        searched.append(steps[-1])
        return candidate(self, *arguments)

    monkeypatch.setattr(GrowingWindows, "encoded", recorded)
    monkeypatch.setattr(DecodedTexts, "candidate", searched_in)
    stream = Stream(Model(streaming), settings=SHORT_TEXTS, chunk_seconds=0.1)
    assert segments_of(updates_of(stream, SPEECH[0]))
    assert 5 < len(searched) < len(steps) - 5
    assert all(one[:2] != other[:2] or one[2] == other[2] for one, other in zip(searched, searched[1:]))


def test_words_that_two_steps_agree_on_are_committed(model):
    """Until a word is committed, both policies search equally."""
    sound = np.concatenate([quiet(0.5), SPEECH[0]])
    updates = updates_of(Stream(model, "local-agreement", SHORT_TEXTS, chunk_seconds=0.5), sound)
    anew = updates_of(Stream(model, "retranslation", SHORT_TEXTS, chunk_seconds=0.5), sound)
    first = next(place for place, update in enumerate(updates) if update.text)
    assert commonprefix([update.tail for update in anew[first - 1 : first + 1]]).startswith(updates[first].text)
    assert (updates[first].text + updates[first].tail).startswith(anew[first].tail[: len(updates[first].text)])


@pytest.mark.parametrize("policy", OF_DECODERS)
def test_text_does_not_depend_on_the_size_of_pieces(policy, model):
    sound, draw = talk(), np.random.default_rng(1)
    expected = updates_of(Stream(model, policy, SHORT_TEXTS), sound)
    stream, updates, place = Stream(model, policy, SHORT_TEXTS), [], 0
    while place < len(sound):
        size = int(draw.integers(0, 9000))
        updates += stream.feed(sound[place : place + size])
        updates += stream.feed(sound[:0])
        place += size
    assert [*updates, stream.finish()] == expected
    assert updates_of(stream, sound) == expected  # a finished stream can be reused


def test_other_sample_rates_channels_and_types_are_accepted(model):
    sound = talk()
    expected = segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), sound))
    both = np.stack([sound, sound], axis=1)
    assert segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), both)) == expected
    assert (
        segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), both * [1, -1])) == expected
    )  # the second channel is inverted
    narrow = soxr.resample(sound, RATE, 8000)
    whole = segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), narrow, len(narrow), 8000))
    pieces = segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), (narrow * 2**15).astype(np.int16), 77, 8000))
    for segments in (whole, pieces):
        assert len(segments) == len(expected)
        for segment, reference in zip(segments, expected):
            assert (segment.start, segment.end) == pytest.approx((reference.start, reference.end), abs=0.15)


def test_invalid_samples_are_refused_and_the_stream_continues(model):
    stream, sound = Stream(model, settings=SHORT_TEXTS), talk()
    updates = stream.feed(sound[:20_000])
    for piece, rate, message in (
        (np.full(10, np.nan, np.float32), None, "samples that are not finite numbers"),
        (np.zeros((2, 2, 2)), None, "audio must be"),
        (np.zeros(4, complex), None, "audio must be"),
        (np.zeros(10), 8000, "the sample rate of the stream changed from 16000 Hz to 8000 Hz"),
    ):
        with pytest.raises(InputError, match=message):
            stream.feed(piece, rate)
    updates += updates_of(stream, sound[20_000:])
    assert segments_of(updates) == segments_of(updates_of(Stream(model, settings=SHORT_TEXTS), sound))
    for arguments, message in (
        ({"policy": "wait-k"}, "policy=wait-k is not known; it must be one of local-agreement, alignatt, retranslation, ctc"),
        ({"chunk_seconds": 0.01}, "chunk_seconds=0.01 must be from 0.1 to 10"),
        ({"target_lang": "de"}, "the model has one target language, so target_lang must not be given"),
        ({"settings": Settings(beam=2, nbest=3)}, "--nbest 3 must be at most --beam 2"),
    ):
        with pytest.raises(InputError, match=message):
            Stream(model, **arguments)
    with pytest.raises(InputError, match="rate=0 must be above 0 Hz"):
        Stream(model).feed(np.zeros(10), 0)


@pytest.mark.parametrize("level", [0.0, 1e-2])
def test_ten_minutes_without_speech_give_no_text_and_bounded_memory(level, model):
    stream = Stream(model, settings=SHORT_TEXTS)
    piece = quiet(1.0, level)
    for update in stream.feed(piece):
        assert update.text == update.tail == ""
    tracemalloc.start()
    for _ in range(600):
        for update in stream.feed(piece):
            assert not (update.closed or update.text or update.tail)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2e6
    assert stream.finish().seconds == 601


@pytest.mark.parametrize(
    ("policy", "name"), [("local-agreement", "exported"), ("alignatt", "exported"), ("local-agreement", "streaming")]
)
def test_speech_without_a_pause_is_cut_into_windows(policy, name, request):
    """Windows of endless syllables have at most the maximum length; time and memory per step are constant."""
    model = Model(request.getfixturevalue(name))
    model.folder = replace(model.folder, lengths=Lengths(4.0))
    stream, updates, times, memory = Stream(model, policy, SHORT_TEXTS), [], [], []
    sound = without_pauses(40.0)
    tracemalloc.start()
    for start in range(0, len(sound), RATE):
        began = time.process_time()
        updates += stream.feed(sound[start : start + RATE])
        times.append(time.process_time() - began)
        memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    updates.append(stream.finish())
    assert_texts_only_grow(updates)
    segments = segments_of(updates)
    assert len(segments) >= 9
    for segment, next_segment in zip(segments, segments[1:]):
        assert segment.end == pytest.approx(next_segment.start) and segment.end - segment.start <= 4.0 + 1.0
    assert memory[-1] < memory[10] + 2e5
    assert np.median(times[-10:]) < 3 * np.median(times[10:20]) + 0.05


def test_more_samples_at_once_than_a_window_holds(model):
    """A talk sent at once has the same windows as in real time."""
    sound = np.concatenate([talk() for _ in range(6)])
    stream = Stream(model, "retranslation", SHORT_TEXTS)
    at_once = [*stream.feed(sound), stream.finish()]
    spoken = segments_of(updates_of(Stream(model, "retranslation", SHORT_TEXTS), sound))
    assert len(segments_of(at_once)) == len(spoken) == 12
    for segment, reference in zip(segments_of(at_once), spoken):
        assert segment.text and (segment.start, segment.end) == pytest.approx((reference.start, reference.end), abs=0.15)


def test_quiet_speech_is_kept_if_louder_sound_follows(model):
    """Levels are normalised by the loudest sample, so after a bang quiet speech before it is not detected again."""
    stream = Stream(model, settings=SHORT_TEXTS, chunk_seconds=0.5)
    updates = updates_of(stream, np.concatenate([SPEECH[0] * 1e-3, quiet(0.05), np.ones(400, np.float32), quiet(1.0, 0.3)]))
    assert any(update.text for update in updates)
    assert_texts_only_grow(updates)


def test_ten_simultaneous_streams_of_one_model(model):
    sound = talk()
    expected = updates_of(Stream(model, settings=SHORT_TEXTS), sound)
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda _: updates_of(Stream(model, settings=SHORT_TEXTS), sound), range(10)))
    assert all(updates == expected for updates in results)
