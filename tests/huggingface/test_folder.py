"""Folders of random Whisper and Speech2Text models in the commands and from Python."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import cli

huggingface = pytest.importorskip("residual_st.huggingface")
from safetensors.torch import load_file  # noqa: E402
from tiny_models import SIZE, make, outputs  # noqa: E402
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor  # noqa: E402

from residual_st.compression import Calibration, CompressionConfig, compress  # noqa: E402
from residual_st.compression.moments import gather  # noqa: E402
from residual_st.errors import InputError  # noqa: E402
from residual_st.stacks import stack_of  # noqa: E402

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"


@pytest.fixture(params=["whisper", "speech2text"])
def dense(request, tmp_path):
    make(request.param, tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def audio(tmp_path):
    """A repeated sentence, in recordings of 20, 24 and 28 s."""
    samples, rate = soundfile.read(SPEECH)
    folder = tmp_path / "audio" / "inner"
    folder.mkdir(parents=True)
    for index, seconds in enumerate((20, 24, 28)):
        soundfile.write(folder / f"{index}.wav", np.resize(samples, seconds * rate), rate)
    return tmp_path / "audio"


def test_dense_folder_is_loaded_unchanged(dense):
    model = huggingface.load(dense)
    assert torch.equal(outputs(model), outputs(type(model).from_pretrained(dense).eval()))


def test_folder_is_compressed_and_expanded(dense, audio, tmp_path):
    """The file contains each U once. The compressed and the expanded model compute the same."""
    shared, expanded = tmp_path / "shared", tmp_path / "expanded"
    size = ["--group-size", "2", "--residual-rank", "3"]
    calibration = ["--calibration", audio, "--calibration-batches", "2", "--refine-updates", "2"]
    figures = json.loads(cli("compress", dense, "--output", shared, *size, *calibration, "--json").stdout)
    assert figures["sharing_pattern"] == "0,0,1,1"
    assert figures["dense"]["loss"] > 0 and figures["compressed"]["loss"] > 0
    weights = load_file(shared / "model.safetensors")
    names = list(weights)
    assert next(value for name, value in weights.items() if name.endswith("encoder.layers.0.fc1.weight")).numel() == 1  # a mark
    assert sum(name.endswith("self_attn_q_proj") for name in names) == 2
    assert json.loads((shared / "config.json").read_text())["quantization_config"]["forms"]["encoder"]["group_size"] == 2
    assert (shared / "preprocessor_config.json").read_bytes() == (dense / "preprocessor_config.json").read_bytes()
    cli("expand", shared, "--output", expanded)
    model = huggingface.load(shared)
    expanded_model = type(model).from_pretrained(expanded).eval()
    assert torch.equal(outputs(model), outputs(expanded_model))
    assert "quantization_config" not in json.loads((expanded / "config.json").read_text())
    assert list(load_file(expanded / "model.safetensors")) == list(load_file(dense / "model.safetensors"))
    features = torch.randn(1, 80, 3000) if model.config.model_type == "whisper" else torch.randn(1, 100, 80)
    assert torch.equal(model.generate(features), expanded_model.generate(features))


def test_encoder_and_decoder_are_compressed(dense, audio, tmp_path):
    """The decoder is compressed after the encoder, on texts of the dense model. The folder contains and expands both."""
    shared, expanded = tmp_path / "shared", tmp_path / "expanded"
    sizes = ["--encoder-weight-fraction", "0.7", "--decoder-weight-fraction", "0.5"]
    calibration = ["--calibration", audio, "--calibration-batches", "2"]
    figures = json.loads(cli("compress", dense, "--output", shared, *sizes, *calibration, "--json").stdout)
    assert 0.45 < figures["decoder_weight_fraction"] <= 0.5 < figures["encoder_weight_fraction"] <= 0.7
    assert set(figures["decoder_relative_errors"][0]) > {"encoder_attn.k_proj", "self_attn.k_proj", "fc1"}
    assert figures["model_bytes"] < figures["dense_model_bytes"]
    assert figures["compressed"]["loss"] > 0
    weights = load_file(shared / "model.safetensors")
    assert set(json.loads((shared / "config.json").read_text())["quantization_config"]["forms"]) == {"encoder", "decoder"}
    assert any("decoder.layers.0.encoder_attn" in name and name.endswith(".up") for name in weights)
    cli("expand", shared, "--output", expanded)
    model = huggingface.load(shared)
    expanded_model = type(model).from_pretrained(expanded).eval()
    torch.testing.assert_close(outputs(model), outputs(expanded_model), rtol=1e-3, atol=1e-4)


def test_encoder_and_decoder_share_one_budget(dense, audio, tmp_path):
    """Both together keep the requested fraction, each a different fraction of its weights."""
    size, calibration = ["--weight-fraction", "0.6"], ["--calibration", audio, "--calibration-batches", "2"]
    figures = json.loads(cli("compress", dense, "--output", tmp_path / "small", *size, *calibration, "--json").stdout)
    kept, before = (sum(figures[f"{name}{part}_matrix_parameters"] for part in ("encoder", "decoder")) for name in ("", "dense_"))
    assert 0.57 < kept / before <= 0.6
    assert abs(figures["encoder_weight_fraction"] - figures["decoder_weight_fraction"]) > 0.01
    assert outputs(huggingface.load(tmp_path / "small")).isfinite().all()


def test_calibration_of_a_decoder_ignores_padding(tmp_path):
    """Padding of tokens and of encoder states: a padded batch has the moments of its utterances."""
    model = make("speech2text", tmp_path)
    generator = torch.Generator().manual_seed(4)
    states, words = torch.randn(2, 23, 32, generator=generator), torch.randint(3, 60, (2, 7), generator=generator)
    mask, token_mask = torch.tensor([[1] * 90, [1] * 50 + [0] * 40]), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])

    def loss(model, batch):
        states, mask, words, token_mask = batch
        options = {"attention_mask": mask, "decoder_input_ids": words, "decoder_attention_mask": token_mask, "use_cache": False}
        return model(encoder_outputs=(states,), **options).logits[token_mask.bool()].pow(3).sum()

    together = [(states, mask, words, token_mask)]
    apart = [
        (states[:1], mask[:1], words[:1], token_mask[:1]),
        (states[1:, :13], mask[1:, :50], words[1:, :4], token_mask[1:, :4]),
    ]
    stack = stack_of(model, "decoder")
    padded, unpadded = (gather(model, stack, Calibration(batches, loss)) for batches in (together, apart))
    for moments, expected in zip(padded, unpadded):
        for name in moments:
            assert moments[name].count == expected[name].count == (23 + 13 if name in stack.memory_matrices else 7 + 4)
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                expected_value = getattr(expected[name], sums)
                tolerance = 1e-4 * expected_value.abs().max().item()
                torch.testing.assert_close(getattr(moments[name], sums), expected_value, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("more", [0, 1, 50])
def test_held_out_batches_are_not_used_for_refinement(dense, audio, more):
    """The audio has three half-minutes, however many more are requested."""
    calibration, held_out = huggingface.audio_calibration(huggingface.load(dense), dense, audio, 1, 1, more)
    parts = [*calibration.batches, *calibration.more, *held_out.batches]
    assert len({id(batch) for batch in parts}) == len(parts)
    assert len(calibration.batches) == len(held_out.batches) == 1
    assert bool(calibration.more) == bool(more)


@pytest.mark.parametrize("dense", ["whisper"], indirect=True)
def test_batched_transcripts_equal_single_ones(dense, audio, monkeypatch):
    model = huggingface.load(dense)
    # so that words differ within a text and between windows
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(SIZE["vocab_size"], SIZE["d_model"]))
    for name, parameter in model.named_parameters():
        if "proj.weight" in name and "attn" in name:
            torch.nn.init.normal_(parameter)

    def words():
        calibration, held_out = huggingface.audio_calibration(model, dense, audio, 2, 1)
        return [batch.words for batch in (*calibration.batches, *held_out.batches)]

    together = words()
    monkeypatch.setattr("residual_st.huggingface.calibration._TRANSCRIBED_TOGETHER", 1)
    alone = words()
    assert len({tuple(each.flatten().tolist()) for each in alone}) == len(alone) == 3
    assert all(torch.equal(batched_words, single_words) for batched_words, single_words in zip(together, alone, strict=True))


def test_low_rank_without_sharing_is_saved_and_expanded(dense, tmp_path):
    model = huggingface.load(dense)
    compress(model, CompressionConfig(rank="=4/=4/=4/=4/=4/2", group_size=2))
    huggingface.save(model, tmp_path / "small", dense)
    assert torch.equal(outputs(huggingface.load(tmp_path / "small")), outputs(model))
    huggingface.expand(tmp_path / "small", tmp_path / "expanded")
    torch.testing.assert_close(outputs(huggingface.load(tmp_path / "expanded")), outputs(model), rtol=1e-3, atol=1e-4)


def test_full_rank_keeps_the_outputs(dense):
    model = huggingface.load(dense)
    before = outputs(model)
    calibration = Calibration([None], lambda model, _: outputs(model).log_softmax(-1)[..., 5].sum())
    result = compress(model, CompressionConfig(group_size=2, rank=32), calibration=calibration)
    assert result.uncovered == []
    torch.testing.assert_close(outputs(model), before, rtol=1e-5, atol=1e-5)


def test_group_size_one_keeps_the_outputs(dense, tmp_path):
    cli("compress", dense, "--output", tmp_path / "same", "--group-size", "1", "--residual-rank", "0", "--no-diagonal")
    assert torch.equal(outputs(huggingface.load(tmp_path / "same")), outputs(huggingface.load(dense)))


def test_calibration_ignores_padding(tmp_path):
    """A padded batch of a batch-first stack has the moments of its utterances."""
    model = make("speech2text", tmp_path)
    stack = stack_of(model)
    states, valid = torch.randn(2, 9, 32), torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~valid[:, None, None], torch.finfo(torch.float32).min)
    for form in (mask, valid[:, None, None].expand(2, 1, 9, 9), valid.long()):  # the masks of different attention implementations
        assert torch.equal(stack.padding((states, form), {}), ~valid)
    assert stack.padding((states,), {"attention_mask": None}) is None

    def run(_model, batch):
        states, mask, valid = batch
        for layer in stack.layers:
            states = layer(states, mask)
        return states[valid].pow(3).sum()

    apart = [(states[:1].clone(), None, valid[:1]), (states[1:, :5].clone(), None, valid[1:, :5])]
    padded, unpadded = (gather(model, stack, Calibration(batches, run)) for batches in ([(states, mask, valid)], apart))
    for moments, expected in zip(padded, unpadded):
        for name in moments:
            assert moments[name].count == expected[name].count == 14
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                expected_value = getattr(expected[name], sums)
                tolerance = 1e-4 * expected_value.abs().max().item()
                torch.testing.assert_close(getattr(moments[name], sums), expected_value, rtol=1e-4, atol=tolerance)


def test_wrong_usage_is_refused(dense, audio, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"architectures": ["BertModel"]}')
    for arguments, sentence in (
        (["compress", tmp_path / "empty"], "give the folder of a Hugging Face model"),
        (
            ["compress", tmp_path / "bert"],
            "contains BertModel, which is not supported; it must be one of WhisperForConditionalGeneration, Speech2Text",
        ),
        (["compress", dense, "--subset", "train", "--calibration", audio], "is calibrated on a folder of audio"),
        (["compress", dense, "--calibration", tmp_path / "empty"], "contains no audio"),
        (["compress", dense, "--residual-rank", "40"], "residual rank 40 does not fit self_attn.k_proj"),
        (["compress", dense, "--force", "--output", tmp_path / "empty"], "is not a model folder"),
        (["expand", dense], "is already dense"),
    ):
        output = [] if "--output" in arguments else ["--output", tmp_path / "out"]
        result = cli(*arguments, *output, check=False)
        assert result.returncode == 2, result.stderr
        assert sentence in result.stderr
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    weights = dense / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "dense cannot be read: " in cli("compress", dense, "--output", tmp_path / "out", check=False).stderr


def test_a_feature_extractor_of_another_model_is_refused(tmp_path):
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    assert huggingface.feature_extractor(tmp_path, Wav2Vec2FeatureExtractor).sampling_rate == 16_000
    with pytest.raises(InputError, match="of a Wav2Vec2FeatureExtractor, not of a WhisperFeatureExtractor; copy it"):
        huggingface.feature_extractor(tmp_path, WhisperFeatureExtractor)
