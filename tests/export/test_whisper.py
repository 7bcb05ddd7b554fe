"""Whisper through the same export, dense and with shared layers, beside Hugging Face's own generation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_HUGGING_FACE, cli

transformers = pytest.importorskip("residual_st.transformers")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    AutoTokenizer,
    GenerationMixin,
    PreTrainedTokenizerFast,
    Speech2TextConfig,
    Speech2TextForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from residual_st.audio import read_audio  # noqa: E402
from residual_st.runtime import Settings, Translator  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.runtime.vocabulary import Vocabulary  # noqa: E402

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
WORDS = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
MOST_WORDS = 12


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A random Whisper whose words are bytes."""
    folder = tmp_path_factory.mktemp("whisper") / "dense"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(WORDS)
    end, start, forced = (tokenizer.token_to_id(word) for word in WORDS)
    special = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY_HUGGING_FACE, **special, vocab_size=len(letters) + len(WORDS)))
    for parameter in model.model.decoder.layers.parameters():
        if parameter.dim() == 2:  # so that a word does not follow itself without end
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    model.generation_config.forced_decoder_ids = [[1, forced]]
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=WORDS[0]).save_pretrained(folder)
    return folder


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
    features = WhisperFeatureExtractor.from_pretrained(source)(
        read_audio(SPEECH, 16_000), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    prompt = torch.tensor([transformers.calibration.prompt_of(model)])
    with torch.no_grad():
        words = GenerationMixin.generate(model, input_features=features, decoder_input_ids=prompt, max_new_tokens=MOST_WORDS - 1)
    settings = Settings(beam=1, max_len_b=MOST_WORDS, min_len=0)
    (found,) = Model(tmp_path / "model").search([read_audio(SPEECH, 16_000)], settings)
    written = words[0, 1:].tolist()
    assert len(set(written)) > 2
    assert found[0].tokens[: len(written)] == written
    text = Translator(tmp_path / "model", settings).translate(SPEECH).text
    assert text == tokenizer.decode(found[0].tokens, skip_special_tokens=True).strip()


def test_a_shared_folder_is_smaller(whisper, tmp_path):
    cli("compress", whisper, "--output", tmp_path / "shared", "--group-size", "4", "--residual-rank", "1")
    sizes = {}
    for name, source in (("dense", whisper), ("shared", tmp_path / "shared")):
        cli("export", source, "--output", tmp_path / f"{name}-model")
        sizes[name] = (tmp_path / f"{name}-model" / "encoder.onnx").stat().st_size
    one_layer = 4 * (4 * 32 * 32 + 2 * 32 * 48)
    assert sizes["dense"] - sizes["shared"] > 2 * one_layer  # three of four matrices, less the residuals and the operations


def test_bytes_of_letters_are_texts():
    text = "Größe: 5 € 🙂"
    letters = Tokenizer(
        models.BPE({letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = Vocabulary(symbols, "bytes", 0, [], 0, None, None, {}, [])
    assert vocabulary.text(letters.encode(text).ids) == text


def test_refusals(whisper, tmp_path):
    Speech2TextForConditionalGeneration(Speech2TextConfig(**TINY_HUGGING_FACE, vocab_size=60)).save_pretrained(
        tmp_path / "speech2text"
    )
    for arguments, message in (
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
