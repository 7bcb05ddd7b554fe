"""Exported wav2vec 2.0 and HuBERT models with a CTC head, decoded without torch, compared with transformers."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import cli

huggingface = pytest.importorskip("residual_st.huggingface")
pytest.importorskip("spox")
sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("huggingface", "streaming")]
from streams import assert_texts_only_grow, segments_of, talk, updates_of  # noqa: E402
from tiny_kinds import make  # noqa: E402
from transformers import AutoTokenizer, Wav2Vec2FeatureExtractor  # noqa: E402

from residual_st.audio.reading import read_audio  # noqa: E402
from residual_st.runtime import Settings, Translator  # noqa: E402
from residual_st.runtime.model import Model  # noqa: E402
from residual_st.streaming import POLICIES, Stream  # noqa: E402

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJ"]
SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
RATE = 16_000


def with_letters(folder: Path) -> Path:
    """Save a tokenizer with one letter per score."""
    (folder / "vocab.json").write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
    settings = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "do_lower_case": True, "word_delimiter_token": "|"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(params=["wav2vec2", "wav2vec2 without a mask", "hubert"])
def folder(request, tmp_path):
    model, extractor = make(request.param, tmp_path / "dense")
    with torch.no_grad():  # so that letters differ between frames
        model.lm_head.bias -= model(**extractor(read_audio(SPEECH, RATE), sampling_rate=RATE, return_tensors="pt")).logits.mean(
            (0, 1)
        )
    model.save_pretrained(tmp_path / "dense")
    return with_letters(tmp_path / "dense")


def test_texts_equal_those_of_transformers(folder, tmp_path):
    """For dense and compressed models. The file contains each shared matrix once."""
    speech = read_audio(SPEECH, RATE)[:40_000]
    cli("compress", folder, "--output", tmp_path / "shared", "--group-size", "4", "--residual-rank", "1")
    sizes = []
    for source in (folder, tmp_path / "shared"):
        exported = tmp_path / f"{source.name}-model"
        cli("export", source, "--output", exported, "--check", SPEECH)
        description = json.loads((exported / "model.json").read_text())
        assert 0 < description["differences"]["states"] < 1e-3 and 0 < description["differences"]["log_probs"] < 1e-3
        assert {path.name for path in exported.iterdir()} == {"encoder.onnx", "model.json", "README.md"}
        sizes.append(description["files"]["encoder.onnx"]["bytes"])

        model, extractor = huggingface.load(source), huggingface.feature_extractor(source, Wav2Vec2FeatureExtractor)
        with torch.no_grad():
            scores = model(**extractor(speech, sampling_rate=RATE, return_tensors="pt")).logits[0]
        written = AutoTokenizer.from_pretrained(source).decode(scores.argmax(-1))
        translator = Translator(exported)
        (hypothesis,) = translator._model.search([speech], Settings())[0]
        assert translator._model.vocabulary.text(hypothesis.tokens) == written.strip(" ") != ""
        assert len(set(written)) > 2
        assert hypothesis.score == pytest.approx(scores.log_softmax(-1).max(-1).values.mean().item(), abs=1e-4)
    assert sizes[0] - sizes[1] > 2 * 4 * (4 * 32 * 32 + 2 * 32 * 48)  # saves three of four matrices, minus residuals and operations


@pytest.mark.parametrize("folder", ["hubert"], indirect=True)
def test_commands_work_on_ctc_models(folder, tmp_path):
    cli("export", folder, "--output", tmp_path / "model", "--precision", "int8")
    shown = json.loads(cli("translate", tmp_path / "model", SPEECH, "--json").stdout)
    (segment,) = shown["segments"]
    assert segment["text"] and segment["text"] == segment["text"].lower()
    model, sound = Model(tmp_path / "model"), talk()
    for policy in POLICIES:
        updates = updates_of(Stream(model, policy, chunk_seconds=0.5), sound)
        assert_texts_only_grow(updates)
        assert policy == "retranslation" or any(update.text for update in updates)
        for window in segments_of(updates):
            (best,) = model.search([sound[round(window.start * RATE) : round(window.end * RATE)]], Settings())[0]
            assert window.text == model.vocabulary.text(best.tokens) or policy != "retranslation"
    for arguments, sentence in (
        (["translate", tmp_path / "model", SPEECH, "--beam", "5"], "beam=5 must be 1: "),
        (["translate", tmp_path / "model", SPEECH, "--task", "translate"], "the model has one task, so task must not be given"),
        (["export", folder, "--task", "translate", "--output", tmp_path / "other"], "has one task, so task must not be given"),
        (["export", make_folder("wavlm", tmp_path), "--output", tmp_path / "other"], "Wav2Vec2ForCTC, HubertForCTC to be"),
    ):
        result = cli(*arguments, check=False)
        assert result.returncode == 2 and sentence in result.stderr, result.stderr
    (folder / "vocab.json").unlink()
    result = cli("export", folder, "--output", tmp_path / "other", check=False)
    assert result.returncode == 2 and "has no vocab.json, so its symbols are unknown" in result.stderr
    assert not (tmp_path / "other").exists()


def make_folder(name: str, folder: Path) -> Path:
    make(name, folder / name)
    return folder / name
