"""Whisper through the same export, dense and with shared layers, beside Hugging Face's own generation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_HUGGING_FACE, cli

transformers = pytest.importorskip("residual_st.huggingface")
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AddedToken,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.runtime import Settings  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.runtime.vocabulary import Vocabulary  # noqa: E402

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
WORDS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
TAGS = ["<|en|>", "<|de|>", "<|hi|>", "<|translate|>", "<|transcribe|>"]
MOST_WORDS = 12


def bytes_tokenizer(special: list[str], added: tuple = ()) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0])


def save_whisper(folder: Path, special: list[str], **settings) -> Path:
    """A random Whisper whose words are bytes, with settings of generation."""
    tokenizer = bytes_tokenizer(special)
    end, start = tokenizer.convert_tokens_to_ids(special[:2])
    ends = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY_HUGGING_FACE, **ends, vocab_size=len(tokenizer)))
    for parameter in model.model.decoder.layers.parameters():
        if parameter.dim() == 2:  # so that a word does not follow itself without end
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config = GenerationConfig(**ends, **settings)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    return save_whisper(tmp_path_factory.mktemp("whisper") / "dense", WORDS, forced_decoder_ids=[[1, 258]])


def features_of(source: Path) -> torch.Tensor:
    extractor = WhisperFeatureExtractor.from_pretrained(source)
    return extractor(read_audio(SPEECH, 16_000), sampling_rate=16_000, return_tensors="pt").input_features


@pytest.mark.parametrize("is_shared", [False, True])
def test_texts_are_those_of_hugging_face(is_shared, whisper, tmp_path):
    source = whisper
    if is_shared:
        source = tmp_path / "shared"
        cli("compress", whisper, "--output", source, "--group-size", "2", "--residual-rank", "2")
    cli("export", source, "--output", tmp_path / "model", "--check", SPEECH)
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert 0 < description["differences"]["states"] < 1e-3
    assert 0 < description["differences"]["log_probs"] < 1e-3

    model, tokenizer = transformers.load(source), AutoTokenizer.from_pretrained(source)
    written = model.generate(features_of(source), max_new_tokens=MOST_WORDS, num_beams=1)[0].tolist()
    settings = Settings(beam=1, max_len_b=MOST_WORDS)
    exported = Model(tmp_path / "model")
    (found,) = exported.search([read_audio(SPEECH, 16_000)], settings)
    assert len(set(written)) > 2
    assert found[0].tokens == written
    text = exported.vocabulary.text(found[0].tokens)
    assert text == tokenizer.decode(found[0].tokens, skip_special_tokens=True).strip(" ")


MULTILINGUAL = {
    "is_multilingual": True,
    "lang_to_id": {tag: 259 + place for place, tag in enumerate(TAGS[:3])},
    "task_to_id": {"translate": 262, "transcribe": 263},
    "no_timestamps_token_id": 258,
}
ENDS = {"eos_token_id": 256, "pad_token_id": 256, "decoder_start_token_id": 257}
ALL_WORDS = [*range(256)]


@pytest.mark.parametrize(
    "settings, language",
    [
        ({}, "de"),
        ({"language": "hindi", "task": "translate"}, None),
        ({"language": "hindi", "task": "translate"}, "de"),
        ({"language": "de"}, None),
        ({"forced_decoder_ids": [[1, None], [2, 263]]}, "en"),
        ({"forced_decoder_ids": [[1, 260], [2, 262], [3, 258]]}, None),
        ({"language": "<|en|>", "suppress_tokens": ALL_WORDS[::2], "begin_suppress_tokens": [*ALL_WORDS[1::4], 256]}, None),
        ({"language": "en", "num_beams": 4, "length_penalty": 0.4, "max_new_tokens": 9, "min_new_tokens": 5}, None),
        ({"language": "en", "num_beams": 3, "early_stopping": True, "max_new_tokens": 8}, None),
    ],
)
def test_settings_of_the_folder_are_followed(settings, language, tmp_path):
    """Those of its generation_config.json alone."""
    source = save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **MULTILINGUAL, **{"max_length": 24, **settings})
    cli("export", source, "--output", tmp_path / "model", "--check", SPEECH)
    asked = {} if language is None else {"language": language}
    model = transformers.load(source)
    written = model.generate(features_of(source), **asked)[0].tolist()
    beam = None if "num_beams" in settings else 1  # its own, or generate's
    (found,) = Model(tmp_path / "model").search([read_audio(SPEECH, 16_000)], Settings(beam=beam), language)
    assert found[0].tokens == [word for word in written if word != 256]
    assert len(found[0].tokens) > 3


def test_a_language_must_be_given_where_generate_would_hear_it(tmp_path):
    source = save_whisper(tmp_path / "whisper", [*WORDS, *TAGS], **MULTILINGUAL, no_repeat_ngram_size=2, do_sample=True)
    shown = cli("export", source, "--output", tmp_path / "model").stdout
    assert "can differ from generate's, which follows do_sample=True, no_repeat_ngram_size=2 of generation_config.json" in shown
    result = cli("translate", tmp_path / "model", SPEECH, check=False)
    assert result.returncode == 2
    assert "--lang is missing; it must be one of de, en, hi" in result.stderr
    cli("translate", tmp_path / "model", SPEECH, "--lang", "hi")


@given(st.lists(st.integers(0, 265), max_size=12))
def test_words_become_the_text_of_the_tokenizer(words):
    added = (" KONFERENZ", "éé", AddedToken("<sep>", special=True), "x y")
    tokenizer = bytes_tokenizer([*WORDS, *TAGS[:3]], added)
    symbols = tokenizer.convert_ids_to_tokens(range(266))
    hidden = [number for number in tokenizer.added_tokens_decoder if not tokenizer.decode([number], skip_special_tokens=True)]
    vocabulary = Vocabulary(symbols, "bytes", 257, [], 256, None, None, {}, hidden)
    assert vocabulary.text(words) == tokenizer.decode(words, skip_special_tokens=True).strip(" ")


def test_a_shared_folder_is_smaller(whisper, tmp_path):
    cli("compress", whisper, "--output", tmp_path / "shared", "--group-size", "4", "--residual-rank", "1")
    sizes = {}
    for name, source in (("dense", whisper), ("shared", tmp_path / "shared")):
        cli("export", source, "--output", tmp_path / f"{name}-model")
        sizes[name] = (tmp_path / f"{name}-model" / "encoder.onnx").stat().st_size
    one_layer = 4 * (4 * 32 * 32 + 2 * 32 * 48)
    assert sizes["dense"] - sizes["shared"] > 2 * one_layer  # three of four matrices, less the residuals and the operations


def test_refusals(whisper, tmp_path):
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
        ([tmp_path / "klingon"], "transformers' generate cannot use: Unsupported language: klingon"),
        ([tmp_path / "speech2text"], "is of speech_to_text; of Hugging Face's models, Whisper alone can be exported"),
        ([whisper, "--data", tmp_path], "--data and --config-yaml are for a checkpoint"),
        ([tmp_path], "config.json"),
    ):
        result = cli("export", *arguments, "--output", tmp_path / "model", check=False)
        assert result.returncode == 2, arguments
        assert message in result.stderr
        assert not (tmp_path / "model").exists()


def test_noise_of_half_a_minute(whisper, tmp_path):
    cli("export", whisper, "--output", tmp_path / "model")
    model = Model(tmp_path / "model")
    samples = np.random.default_rng(1).normal(0, 0.1, 30 * 16_000).astype(np.float32)
    assert model.encode([samples, samples[:400]])["states"].shape == (2, 1500, 32)
