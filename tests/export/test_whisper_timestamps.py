"""Whisper's timestamps and its fallback to sampling, compared with generation by transformers."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from conftest import cli

huggingface = pytest.importorskip("residual_st.huggingface")
from tiny_whisper import END, FIRST, GERMAN, SETTINGS, SILENCE, SPEECH, START, TRANSCRIBE, WORDS, features_of, save_whisper  # noqa: E402
from transformers import WhisperForConditionalGeneration, WhisperTimeStampLogitsProcessor  # noqa: E402

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.languages import Direction  # noqa: E402
from residual_st.runtime import Settings, Translator  # noqa: E402
from residual_st.runtime.beam_search import Hypothesis  # noqa: E402
from residual_st.runtime.fallback import Fallback  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.runtime.rules import Rules  # noqa: E402
from residual_st.runtime.sampling import draw  # noqa: E402
from residual_st.runtime.search import Search  # noqa: E402

SPOKEN = Direction("transcribe", "de")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper") / "dense", WORDS, **SETTINGS)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    cli("export", source, "--output", folder)
    return folder


@pytest.fixture
def model(exported):
    return Model(exported)


@pytest.mark.parametrize("beam", [1, 3])
def test_texts_with_timestamps_equal_those_of_transformers(beam, source, model):
    asked = {"language": "de", "task": "transcribe", "return_timestamps": True, "max_new_tokens": 20, "num_beams": beam}
    written = huggingface.load(source).generate(features_of(source), force_unique_generate_call=True, **asked)[0].tolist()
    folder = replace(model.folder, fallback=Fallback())
    search = Search(folder, Settings(beam=beam, max_len_b=20), SPOKEN, with_times=True)
    (text,) = search.accepted(model.decoder_source([read_audio(SPEECH, 16_000)]), np.random.default_rng(1))[:1]
    assert text.tokens == [word for word in written if word not in (START, GERMAN, TRANSCRIBE, END)]
    assert text.tokens[0] >= FIRST
    assert sum(word >= FIRST for word in text.tokens) > 1


def random_texts(timestamps, eos, count, most=12):
    """Random texts that the timestamp rule allows, with the scores before and after the rule at each token."""
    for seed in range(count):
        random, tokens = np.random.default_rng(seed), []
        for _ in range(most):
            scores = random.normal(0, 3, (1, len(WORDS) + 256)).astype(np.float32)
            scores[0, END] += 4
            allowed = scores.copy()
            timestamps.rule(allowed, np.array([tokens], np.int64), eos)
            yield tokens, scores, allowed
            word = int(random.choice(np.flatnonzero(np.isfinite(allowed[0]) & (random.random(allowed.shape[1]) < 0.5))))
            if word == eos:
                break
            tokens = [*tokens, word]


def test_timestamp_rule_equals_that_of_transformers(source, model):
    rule = WhisperTimeStampLogitsProcessor(huggingface.load(source).generation_config, begin_index=1)
    seen = set()
    for tokens, scores, allowed in random_texts(model.folder.timestamps, END, 60):
        expected = rule(torch.tensor([[START, *tokens]]), torch.from_numpy(scores)).numpy()
        np.testing.assert_array_equal(np.isfinite(allowed), np.isfinite(expected))
        seen.add((len(tokens) > 1 and tokens[-2] >= FIRST, bool(tokens) and tokens[-1] >= FIRST))
    assert len(seen) == 4, "timestamps and words, each after timestamps and words"


def test_segments_equal_those_of_transformers(model):
    split = WhisperForConditionalGeneration._retrieve_segment
    compared = set()
    for tokens, _, _ in random_texts(model.folder.timestamps, END, 150):
        if not tokens:
            continue
        arguments = {
            "seek_sequence": torch.tensor(tokens),
            "seek_outputs": [None],
            "time_offset": torch.zeros(1, dtype=torch.float64),
            "timestamp_begin": FIRST,
            "seek_num_frames": torch.tensor([3000]),
            "time_precision": 0.02,
            "time_precision_features": 0.01,
            "input_stride": 2,
            "prev_idx": 0,
            "idx": 0,
            "return_token_timestamps": False,
            "decoder_input_ids": torch.tensor([[START]]),
        }
        expected, frames = split(**{name: arguments[name] for name in inspect.signature(split).parameters})
        results, seconds = model.folder.timestamps.segments(tokens, 30.0)
        assert seconds == pytest.approx(float(frames) / 100)
        assert len(results) == len(expected)
        for (start, end, words), segment in zip(results, expected):
            assert (start, end) == pytest.approx((float(segment["start"]), float(segment["end"])))
            assert words == [word for word in segment["tokens"].tolist() if word < FIRST]
        compared.add((len(results) > 1, seconds < 30))
    assert len(compared) == 4, "one segment and several, complete and cut off"


def test_fallback_scores_equal_those_of_transformers(source, model):
    whisper, size = huggingface.load(source), len(WORDS) + 256
    draws = np.random.default_rng(1)
    for tokens in ([72] * 30, draws.integers(256, size=30).tolist(), [72, 73] * 3, []):
        ratio = WhisperForConditionalGeneration._retrieve_compression_ratio(torch.tensor([*tokens, END]), size)
        for limit in (ratio - 1e-6, ratio + 1e-6):
            assert Fallback(compression_ratio=limit).repeats_itself(Hypothesis(tokens, 0.0), END, size) == (limit < ratio)

    settings = {"return_timestamps": True, "max_new_tokens": 20, "num_beams": 1, "force_unique_generate_call": True}
    settings |= {"return_dict_in_generate": True, "output_scores": True, "language": "de", "task": "transcribe"}
    made = whisper.generate(features_of(source), **settings)
    written = made["sequences"][0][-len(made["scores"]) :]
    expected = WhisperForConditionalGeneration._retrieve_avg_logprobs([score[0] for score in made["scores"]], written, 0.0)
    search = Search(model.folder, Settings(beam=1, max_len_b=20), SPOKEN, with_times=True)
    speech = model.decoder_source([read_audio(SPEECH, 16_000)])
    sampled = search.sampled(speech, 0.0, draws)
    # the forced end of a text of maximum length has log probability 0, and counts as a token
    counted = len(written) + int(written[-1] != END)
    assert sampled.score == pytest.approx(float(expected) * len(written) / counted, abs=1e-3)
    with torch.no_grad():
        logits = whisper(features_of(source), decoder_input_ids=torch.tensor([[START]])).logits[0, 0]
    assert np.exp(speech.first_words[0, SILENCE]) == pytest.approx(float(logits.softmax(-1)[SILENCE]), rel=1e-2)


def test_sampling_follows_the_models_distribution():
    """Sharper at lower temperatures."""
    chances = np.array([0.6, 0.3, 0.1])

    class Vocabulary:
        pad = unk = None
        eos, suppressed, begin_suppressed = 2, [], []

    rules = Rules(Vocabulary, Settings(beam=1, min_len=0, unkpen=0), 1)
    for temperature in (1.0, 0.5):
        random = np.random.default_rng(1)
        results = [draw(lambda *_: np.log(chances)[None, None], rules, [0], temperature, random) for _ in range(3000)]
        counts = np.bincount([text.tokens[0] if text.tokens else 2 for text in results], minlength=3)
        expected = chances ** (1 / temperature)
        np.testing.assert_allclose(counts / 3000, expected / expected.sum(), atol=0.03)
    first = next(text for text in results if text.tokens == [0])
    assert first.score == pytest.approx(np.log(0.6) / 2)


def with_fallback(exported, folder, **changes):
    """A copy of the folder with other thresholds for the fallback."""
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).symlink_to(file)
    description = json.loads((exported / "model.json").read_text())
    (folder / "model.json").unlink()
    (folder / "model.json").write_text(json.dumps({**description, "fallback": {**description["fallback"], **changes}}))
    return folder


def test_guesses_repetition_loops_and_silence_are_rejected(exported, tmp_path):
    def translated(timestamps=True, **changes):
        folder = with_fallback(exported, tmp_path / str(len([*tmp_path.iterdir()])), **changes)
        settings = Settings(beam=1, max_len_b=12)
        return Translator(folder, settings, source_lang="de", timestamps=timestamps).translate(SPEECH).text

    for timestamps in (True, False):
        likeliest = translated(timestamps, log_prob=None, compression_ratio=None)
        assert likeliest
        assert translated(timestamps, log_prob=0.1, no_speech=1.0) == likeliest, "a guess, but sampling gives no likelier text"
        assert translated(timestamps, log_prob=None, compression_ratio=0.0) == "", "only repetition loops"
    assert translated(log_prob=0.1, no_speech=0.0) == "", "a guess where no speech is detected"
    assert translated(False, log_prob=0.1, no_speech=0.0) == likeliest, "as in generate"


def test_speech_without_text_is_reported(exported, tmp_path):
    """On standard error: in the output an empty line could be silence."""
    folder = with_fallback(exported, tmp_path / "model", compression_ratio=0.0)
    result = cli("translate", folder, SPEECH, "--beam", "1", "--max-len-b", "12", "--source-lang", "de")
    assert result.stdout == "\n"
    assert result.stderr.endswith(f"{SPEECH} has no text: the model found no words in its speech\n")


def test_repetition_loop_is_sampled_again(model):
    speech = model.decoder_source([read_audio(SPEECH, 16_000)])
    size, temperatures = len(WORDS) + 256, (0.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def search(**rules):
        folder = replace(model.folder, fallback=Fallback(temperatures, **rules))
        return Search(folder, Settings(beam=1, max_len_b=20), SPOKEN, with_times=True)

    random = np.random.default_rng(1)
    likeliest, *sampled = (search().sampled(speech, temperature, random) for temperature in temperatures)

    def ratio(text):
        tokens = torch.tensor([*text.tokens, END])
        return WhisperForConditionalGeneration._retrieve_compression_ratio(tokens, size)

    less_repetitive = [text for text in sampled if ratio(text) < ratio(likeliest)]
    assert less_repetitive
    results = search(compression_ratio=ratio(likeliest) - 1e-9).accepted(speech, np.random.default_rng(1))
    assert results == less_repetitive[:1]
    likely = {"compression_ratio": ratio(likeliest) - 1e-9, "log_prob": max(text.score for text in sampled) + 1e-3}
    assert search(**likely).accepted(speech, np.random.default_rng(1)) == [], "sampled texts that are guesses are rejected"


def test_long_recordings_are_split_into_windows(exported, tmp_path):
    speech = read_audio(SPEECH, 16_000)
    talk = np.concatenate([part for _ in range(16) for part in (speech, np.zeros(8000, np.float32))])
    silence = np.zeros(20 * 16_000, np.float32)
    soundfile.write(tmp_path / "talk.wav", np.concatenate([talk, silence, speech]), 16_000)
    flags = ["--source-lang", "de", "--beam", "1", "--max-len-b", "12"]
    row = json.loads(cli("translate", exported, tmp_path / "talk.wav", "--json", *flags).stdout)
    assert len(talk) > 70 * 16_000
    segments = row["segments"]
    assert len(segments) > 3
    for segment, next_segment in zip(segments, segments[1:]):
        assert segment["start"] <= segment["end"] <= row["seconds"]
        assert segment["start"] <= next_segment["start"]
    inside = [segment for segment in segments if len(talk) / 16_000 < segment["start"] < (len(talk) + len(silence)) / 16_000 - 1]
    assert not inside, "no text for the silence in between"
    assert row["text"] == " ".join(segment["text"] for segment in segments)
    assert "-->" in cli("translate", exported, tmp_path / "talk.wav", "--srt", *flags).stdout
    pieces = json.loads(
        cli("translate", exported, tmp_path / "talk.wav", "--json", "--nbest", "2", "--beam", "2", *flags[:2]).stdout
    )
    assert all(len(piece["hypotheses"]) == 2 for piece in pieces["segments"]), "pieces between pauses have several hypotheses"


def test_short_recordings_have_timestamps_on_request(exported):
    speech = read_audio(SPEECH, 16_000)
    plain = Translator(exported, Settings(beam=1, max_len_b=12), source_lang="de").translate(speech)
    (whole,) = plain.segments
    assert (whole.start, whole.end) == (0, plain.seconds), "the whole recording, including silence at both ends"
    model = Model(exported)
    ((best,),) = model.search([speech], Settings(beam=1, max_len_b=12), SPOKEN)
    assert plain.text == model.vocabulary.text(best.tokens)
    timed = Translator(exported, Settings(beam=1, max_len_b=12), source_lang="de", timestamps=True).translate(speech)
    assert [(each.start, each.end) for each in timed.segments] != [(0, plain.seconds)]
    assert all(round(each.start * 16_000) % 320 == 0 for each in timed.segments), "multiples of 20 ms"


def test_damaged_descriptions_are_refused(exported, tmp_path):
    description = json.loads((exported / "model.json").read_text())
    for number, changes in enumerate(
        (
            {"languages": {**description["languages"], "sources": {"de": [10**6]}}},
            {"languages": {**description["languages"], "default": {"task": "dance"}}},
            {"languages": {"tasks": []}},
            {"timestamps": {**description["timestamps"], "first": -1}},
            {"timestamps": {**description["timestamps"], "seconds": 0}},
            {"fallback": {"temperatures": []}},
            {"fallback": {"temperatures": [-1.0]}},
            {"fallback": {"log_prob": "low"}},
        )
    ):
        folder = with_fallback(exported, tmp_path / str(number))
        (folder / "model.json").write_text(json.dumps({**description, **changes}))
        result = cli("translate", folder, SPEECH, check=False)
        assert result.returncode == 2, changes
        assert "model.json is damaged" in result.stderr or "is not supported by this model" in result.stderr
