"""Random models of two real architectures, through folders, in the commands and from Python."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import cli

transformers = pytest.importorskip("residual_st.huggingface")
from safetensors.torch import load_file  # noqa: E402
from tiny_models import SIZE, make, outputs  # noqa: E402

from residual_st.compression import Calibration, CompressionConfig, compress  # noqa: E402
from residual_st.compression.moments import gather  # noqa: E402
from residual_st.stacks import stack_of  # noqa: E402

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"


@pytest.fixture(params=["whisper", "speech2text"])
def dense(request, tmp_path):
    make(request.param, tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def audio(tmp_path):
    """Of one who says a sentence again and again, for 20, 24 and 28 s."""
    samples, rate = soundfile.read(SPEECH)
    folder = tmp_path / "audio" / "inner"
    folder.mkdir(parents=True)
    for index, seconds in enumerate((20, 24, 28)):
        soundfile.write(folder / f"{index}.wav", np.resize(samples, seconds * rate), rate)
    return tmp_path / "audio"


def test_a_dense_folder_is_the_model_it_was(dense):
    model = transformers.load(dense)
    assert torch.equal(outputs(model), outputs(type(model).from_pretrained(dense).eval()))


def test_compressed_and_expanded_by_the_commands(dense, audio, tmp_path):
    """The file has each U once; what was compressed computes the same as what was expanded, in the ordinary class."""
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
    model = transformers.load(shared)
    ordinary = type(model).from_pretrained(expanded).eval()
    assert torch.equal(outputs(model), outputs(ordinary))
    assert "quantization_config" not in json.loads((expanded / "config.json").read_text())
    assert list(load_file(expanded / "model.safetensors")) == list(load_file(dense / "model.safetensors"))
    features = torch.randn(1, 80, 3000) if model.config.model_type == "whisper" else torch.randn(1, 100, 80)
    assert torch.equal(model.generate(features), ordinary.generate(features))


def test_the_decoder_too(dense, audio, tmp_path):
    """Compressed after the encoder, on the words of the dense model; the folder has both parts, and expands to what it computes."""
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
    model = transformers.load(shared)
    ordinary = type(model).from_pretrained(expanded).eval()
    torch.testing.assert_close(outputs(model), outputs(ordinary), rtol=1e-3, atol=1e-4)


def test_one_budget_for_encoder_and_decoder(dense, audio, tmp_path):
    """Together they keep what was asked for, and each another share of its own weights."""
    size, calibration = ["--weight-fraction", "0.6"], ["--calibration", audio, "--calibration-batches", "2"]
    figures = json.loads(cli("compress", dense, "--output", tmp_path / "small", *size, *calibration, "--json").stdout)
    kept, before = (sum(figures[f"{name}{part}_matrix_parameters"] for part in ("encoder", "decoder")) for name in ("", "dense_"))
    assert 0.57 < kept / before <= 0.6
    assert abs(figures["encoder_weight_fraction"] - figures["decoder_weight_fraction"]) > 0.01
    assert outputs(transformers.load(tmp_path / "small")).isfinite().all()


def test_padding_of_a_decoder_does_not_count(tmp_path):
    """Of words and of what they attend to: the moments of two utterances together are those of the two apart."""
    model = make("speech2text", tmp_path)
    generator = torch.Generator().manual_seed(4)
    states, words = torch.randn(2, 23, 32, generator=generator), torch.randint(3, 60, (2, 7), generator=generator)
    mask, written = torch.tensor([[1] * 90, [1] * 50 + [0] * 40]), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])

    def loss(model, batch):
        states, mask, words, written = batch
        told = {"attention_mask": mask, "decoder_input_ids": words, "decoder_attention_mask": written, "use_cache": False}
        return model(encoder_outputs=(states,), **told).logits[written.bool()].pow(3).sum()

    together = [(states, mask, words, written)]
    apart = [
        (states[:1], mask[:1], words[:1], written[:1]),
        (states[1:, :13], mask[1:, :50], words[1:, :4], written[1:, :4]),
    ]
    stack = stack_of(model, "decoder")
    one, two = (gather(model, stack, Calibration(batches, loss)) for batches in (together, apart))
    for moments, expected in zip(one, two):
        for name in moments:
            assert moments[name].count == expected[name].count == (23 + 13 if name in stack.memory_matrices else 7 + 4)
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                wanted = getattr(expected[name], sums)
                tolerance = 1e-4 * wanted.abs().max().item()
                torch.testing.assert_close(getattr(moments[name], sums), wanted, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("more", [0, 1, 50])
def test_refinement_does_not_see_what_is_held_out(dense, audio, more):
    """There are three half-minutes of audio, however much more is asked for."""
    calibration, held_out = transformers.audio_calibration(transformers.load(dense), dense, audio, 1, 1, more)
    parts = [*calibration.batches, *calibration.more, *held_out.batches]
    assert len({id(batch) for batch in parts}) == len(parts)
    assert len(calibration.batches) == len(held_out.batches) == 1
    assert bool(calibration.more) == bool(more)


@pytest.mark.parametrize("dense", ["whisper"], indirect=True)
def test_half_minutes_are_transcribed_together_as_alone(dense, audio, monkeypatch):
    model = transformers.load(dense)
    # so that words differ from one to the next, and from window to window
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.randn(SIZE["vocab_size"], SIZE["d_model"]))
    for name, parameter in model.named_parameters():
        if "proj.weight" in name and "attn" in name:
            torch.nn.init.normal_(parameter)

    def words():
        calibration, held_out = transformers.audio_calibration(model, dense, audio, 2, 1)
        return [batch.words for batch in (*calibration.batches, *held_out.batches)]

    together = words()
    monkeypatch.setattr("residual_st.huggingface.calibration._TRANSCRIBED_TOGETHER", 1)
    alone = words()
    assert len({tuple(each.flatten().tolist()) for each in alone}) == len(alone) == 3
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))


def test_a_folder_whose_layers_share_nothing(dense, tmp_path):
    model = transformers.load(dense)
    compress(model, CompressionConfig(rank="=4/=4/=4/=4/=4/2", group_size=2))
    transformers.save(model, tmp_path / "small", dense)
    assert torch.equal(outputs(transformers.load(tmp_path / "small")), outputs(model))
    transformers.expand(tmp_path / "small", tmp_path / "expanded")
    torch.testing.assert_close(outputs(transformers.load(tmp_path / "expanded")), outputs(model), rtol=1e-3, atol=1e-4)


def test_full_rank_loses_nothing(dense):
    model = transformers.load(dense)
    before = outputs(model)
    calibration = Calibration([None], lambda model, _: outputs(model).log_softmax(-1)[..., 5].sum())
    result = compress(model, CompressionConfig(group_size=2, rank=32), calibration=calibration)
    assert result.uncovered == []
    torch.testing.assert_close(outputs(model), before, rtol=1e-5, atol=1e-5)


def test_nothing_shared_is_the_model_it_was(dense, tmp_path):
    cli("compress", dense, "--output", tmp_path / "same", "--group-size", "1", "--residual-rank", "0", "--no-diagonal")
    assert torch.equal(outputs(transformers.load(tmp_path / "same")), outputs(transformers.load(dense)))


def test_padding_does_not_count(tmp_path):
    """Of a batch-first stack with padding: the moments of two utterances together are those of the two apart."""
    model = make("speech2text", tmp_path)
    stack = stack_of(model)
    states, there = torch.randn(2, 9, 32), torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    mask = torch.zeros(2, 1, 9, 9).masked_fill(~there[:, None, None], torch.finfo(torch.float32).min)
    for form in (mask, there[:, None, None].expand(2, 1, 9, 9), there.long()):  # as attention's implementations have it
        assert torch.equal(stack.padding((states, form), {}), ~there)
    assert stack.padding((states,), {"attention_mask": None}) is None

    def run(_model, batch):
        states, mask, there = batch
        for layer in stack.layers:
            states = layer(states, mask)
        return states[there].pow(3).sum()

    apart = [(states[:1].clone(), None, there[:1]), (states[1:, :5].clone(), None, there[1:, :5])]
    one, two = (gather(model, stack, Calibration(batches, run)) for batches in ([(states, mask, there)], apart))
    for moments, expected in zip(one, two):
        for name in moments:
            assert moments[name].count == expected[name].count == 14
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                wanted = getattr(expected[name], sums)
                tolerance = 1e-4 * wanted.abs().max().item()
                torch.testing.assert_close(getattr(moments[name], sums), wanted, rtol=1e-4, atol=tolerance)


def test_refusals(dense, audio, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["BertModel"]}')
    for arguments, sentence in (
        (["compress", tmp_path / "empty"], "give the folder of a Hugging Face model"),
        (
            ["compress", tmp_path / "other"],
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
