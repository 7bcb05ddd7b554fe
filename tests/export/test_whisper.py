"""Exported Whisper models, dense and with shared layers, compared with generation by transformers."""

import json
import shutil

import numpy as np
import pytest
from conftest import TINY_HUGGING_FACE, cli

huggingface = pytest.importorskip("residual_st.huggingface")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tiny_whisper import SPEECH, bytes_tokenizer, features_of, save_whisper  # noqa: E402
from transformers import AddedToken, AutoTokenizer, Speech2TextConfig, Speech2TextForConditionalGeneration  # noqa: E402

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.languages import Direction  # noqa: E402
from residual_st.runtime import Settings  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.runtime.vocabulary import Vocabulary  # noqa: E402

WORDS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
TAGS = ["<|en|>", "<|de|>", "<|hi|>", "<|translate|>", "<|transcribe|>"]
MOST_WORDS = 12


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper") / "dense", WORDS, forced_decoder_ids=[[1, 258]])


@pytest.mark.parametrize("is_shared", [False, True])
def test_texts_equal_those_of_transformers(is_shared, whisper, tmp_path):
    source = whisper
    if is_shared:
        source = tmp_path / "shared"
        cli("compress", whisper, "--output", source, "--group-size", "2", "--residual-rank", "2")
    cli("export", source, "--output", tmp_path / "model", "--check", SPEECH)
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert 0 < description["differences"]["states"] < 1e-3
    assert 0 < description["differences"]["log_probs"] < 1e-3

    model, tokenizer = huggingface.load(source), AutoTokenizer.from_pretrained(source)
    written = model.generate(features_of(source), max_new_tokens=MOST_WORDS, num_beams=1)[0].tolist()
    settings = Settings(beam=1, max_len_b=MOST_WORDS)
    exported = Model(tmp_path / "model")
    (hypotheses,) = exported.search([read_audio(SPEECH, 16_000)], settings)
    assert len(set(written)) > 2
    assert hypotheses[0].tokens == written
    text = exported.vocabulary.text(hypotheses[0].tokens)
    assert text == tokenizer.decode(hypotheses[0].tokens, skip_special_tokens=True).strip(" ")


MULTILINGUAL = {
    "is_multilingual": True,
    "lang_to_id": {tag: 259 + place for place, tag in enumerate(TAGS[:3])},
    "task_to_id": {"translate": 262, "transcribe": 263},
    "no_timestamps_token_id": 258,
}
ENDS = {"eos_token_id": 256, "pad_token_id": 256, "decoder_start_token_id": 257}
ALL_WORDS = [*range(256)]


@pytest.mark.parametrize(
    "settings, asked",
    [
        ({}, {"language": "de"}),
        ({}, {"language": "german", "task": "translate"}),
        ({}, {"task": "translate"}),
        ({"language": "hindi", "task": "translate"}, {}),
        ({"language": "hindi", "task": "translate"}, {"language": "de"}),
        ({"language": "hindi", "task": "translate"}, {"language": "<|de|>", "task": "transcribe"}),
        ({"task": "translate"}, {}),
        ({"language": "de"}, {}),
        ({"forced_decoder_ids": [[1, None], [2, 263]]}, {}),
        ({"forced_decoder_ids": [[1, None], [2, 263]]}, {"language": "en"}),
        ({"forced_decoder_ids": [[1, 260], [2, 262], [3, 258]]}, {}),
        ({"language": "<|en|>", "suppress_tokens": ALL_WORDS[::2], "begin_suppress_tokens": [*ALL_WORDS[1::4], 256]}, {}),
        ({"language": "en", "num_beams": 4, "length_penalty": 0.4, "max_new_tokens": 9, "min_new_tokens": 5}, {}),
        ({"language": "en", "num_beams": 3, "early_stopping": True, "max_new_tokens": 8}, {}),
    ],
)
def test_generation_config_of_the_folder_is_applied(settings, asked, tmp_path):
    """Only generation_config.json counts. The language is detected if neither it nor the user names one."""
    source = save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **MULTILINGUAL, **{"max_length": 24, **settings})
    cli("export", source, "--output", tmp_path / "model", "--check", SPEECH)
    written = huggingface.load(source).generate(features_of(source), **asked)[0].tolist()
    beam = None if "num_beams" in settings else 1  # the folder's default, or that of `generate`
    direction = Direction(asked.get("task"), asked.get("language"))
    (hypotheses,) = Model(tmp_path / "model").search([read_audio(SPEECH, 16_000)], Settings(beam=beam), direction)
    assert hypotheses[0].tokens == [word for word in written if word != 256]
    assert len(hypotheses[0].tokens) > 3


def test_language_is_detected_or_is_the_default_given_to_export(tmp_path):
    source = save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **MULTILINGUAL, no_repeat_ngram_size=2, do_sample=True)
    shown = cli("export", source, "--output", tmp_path / "model").stdout
    assert "not supported in generation_config.json: do_sample=True, no_repeat_ngram_size=2" in shown
    row = json.loads(cli("translate", tmp_path / "model", SPEECH, "--json").stdout)
    (detected,) = huggingface.load(source).detect_language(features_of(source)).tolist()
    assert row["task"] == "transcribe"
    assert f"<|{row['source_lang']}|>" == TAGS[detected - 259]

    cli("export", source, "--output", tmp_path / "told", "--task", "translate", "--source-lang", "German")
    with_default = Model(tmp_path / "told")
    assert with_default.languages.default == Direction("translate", "de", "en")
    assert with_default.languages.names["german"] == "de"
    text = cli("translate", tmp_path / "told", SPEECH).stdout
    assert text == cli("translate", tmp_path / "model", SPEECH, "--task", "translate", "--source-lang", "de").stdout


def test_unsupported_tasks_and_languages_are_refused(whisper, tmp_path):
    source = save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **MULTILINGUAL)
    cli("export", source, "--output", tmp_path / "several")
    cli("export", whisper, "--output", tmp_path / "english")
    for name, flags, message in (
        ("several", ["--source-lang", "xx"], "source_lang=xx is not supported by this model; it must be one of auto, de, en, hi"),
        ("several", ["--source-lang", "de", "--target-lang", "fr"], "target_lang=fr is not supported by this model; it must be en"),
        (
            "several",
            ["--task", "summarize"],
            "task=summarize is not supported by this model; it must be one of transcribe, translate",
        ),
        (
            "several",
            ["--task", "transcribe", "--source-lang", "de", "--target-lang", "en"],
            "target_lang=en must equal source_lang=de",
        ),
        ("english", ["--task", "translate"], "task=translate is not supported by this model; it must be transcribe"),
        ("english", ["--source-lang", "de"], "source_lang=de is not supported by this model; it must be en"),
        ("english", ["--target-lang", "de"], "target_lang=de must equal source_lang=en"),
        ("english", ["--lang", "en"], "--lang en is no longer a flag: give --source-lang"),
    ):
        result = cli("translate", tmp_path / name, SPEECH, *flags, check=False)
        assert (result.returncode, result.stdout) == (2, ""), flags
        assert message in result.stderr.splitlines()[-1]
    result = cli("export", source, "--output", tmp_path / "never", "--source-lang", "xx", check=False)
    assert result.returncode == 2
    assert "source_lang=xx is not supported by this model; it must be one of auto, de, en, hi" in result.stderr
    assert not (tmp_path / "never").exists()
    cli("translate", tmp_path / "english", SPEECH, "--task", "transcribe", "--source-lang", "auto", "--target-lang", "english")


def test_folders_of_earlier_releases_are_read(tmp_path):
    """As written by release 0.2.0: languages are part of the vocabulary, and there are no timestamps."""
    settings = {**MULTILINGUAL, "language": "hindi", "task": "translate"}
    cli("export", save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **settings), "--output", tmp_path / "model")
    speech, path = read_audio(SPEECH, 16_000), tmp_path / "model" / "model.json"

    def words(**asked):
        return Model(tmp_path / "model").search([speech], Settings(beam=1, max_len_b=MOST_WORDS), Direction(**asked))[0][0].tokens

    german, hindi = words(source_lang="de"), words()
    assert german != hindi
    description = json.loads(path.read_text())
    for name in ("languages", "timestamps", "fallback"):
        del description[name]
    description["vocabulary"] |= {"languages": {"hi": 261, "en": 259, "de": 260}, "default": [261, 262, 258], "begin": [262, 258]}
    path.write_text(json.dumps({**description, "format": 2}))
    assert words() == words(source_lang="hi") == hindi
    assert words(source_lang="de") == german
    assert cli("translate", tmp_path / "model", SPEECH).stdout.strip()
    assert "task=translate: the model" in cli("translate", tmp_path / "model", SPEECH, "--task", "translate", check=False).stderr


@given(st.lists(st.integers(0, 265), max_size=12))
def test_tokens_are_decoded_as_by_the_tokenizer(words):
    added = (" KONFERENZ", "éé", AddedToken("<sep>", special=True), "x y")
    tokenizer = bytes_tokenizer([*WORDS, *TAGS[:3]], added)
    symbols = tokenizer.convert_ids_to_tokens(range(266))
    hidden = [number for number in tokenizer.added_tokens_decoder if not tokenizer.decode([number], skip_special_tokens=True)]
    vocabulary = Vocabulary(symbols, "bytes", 257, [], 256, None, None, hidden)
    assert vocabulary.text(words) == tokenizer.decode(words, skip_special_tokens=True).strip(" ")


def test_shared_export_is_smaller(whisper, tmp_path):
    cli("compress", whisper, "--output", tmp_path / "shared", "--group-size", "4", "--residual-rank", "1")
    sizes = {}
    for name, source in (("dense", whisper), ("shared", tmp_path / "shared")):
        cli("export", source, "--output", tmp_path / f"{name}-model")
        sizes[name] = (tmp_path / f"{name}-model" / "encoder.onnx").stat().st_size
    one_layer = 4 * (4 * 32 * 32 + 2 * 32 * 48)
    assert sizes["dense"] - sizes["shared"] > 2 * one_layer  # saves three of four matrices, minus residuals and operations


def test_invalid_folders_are_refused(whisper, tmp_path):
    Speech2TextForConditionalGeneration(Speech2TextConfig(**TINY_HUGGING_FACE, vocab_size=60)).save_pretrained(
        tmp_path / "speech2text"
    )
    for name, file in (("untold", "tokenizer.json"), ("klingon", None)):
        shutil.copytree(whisper, tmp_path / name)
        if file:
            (tmp_path / name / file).unlink()
    (tmp_path / "klingon" / "generation_config.json").write_text(json.dumps({**MULTILINGUAL, **ENDS, "language": "klingon"}))
    for arguments, message in (
        ([tmp_path / "untold"], "untold has no tokenizer.json or vocab.json and merges.txt, so its words are unknown"),
        (
            [tmp_path / "klingon"],
            "transformers' generate cannot use the folder's generation settings: Unsupported language: klingon",
        ),
        ([tmp_path / "speech2text"], "has model_type speech_to_text; it must be one of Whisper, Wav2Vec2ForCTC, HubertForCTC"),
        ([whisper, "--data", tmp_path], "--data and --config-yaml are for a checkpoint"),
        ([tmp_path], "config.json"),
    ):
        result = cli("export", *arguments, "--output", tmp_path / "model", check=False)
        assert result.returncode == 2, arguments
        assert message in result.stderr
        assert not (tmp_path / "model").exists()


def test_window_of_half_a_minute_is_encoded(whisper, tmp_path):
    cli("export", whisper, "--output", tmp_path / "model")
    model = Model(tmp_path / "model")
    samples = np.random.default_rng(1).normal(0, 0.1, 30 * 16_000).astype(np.float32)
    assert model.encode([samples, samples[:400]])["states"].shape == (2, 1500, 32)
