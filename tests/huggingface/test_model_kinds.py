"""Every kind of Hugging Face model in Python and in the commands. docs/kinds.md has a table of these tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import cli

huggingface = pytest.importorskip("residual_st.huggingface")
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_kinds import TINY, batch_of, make, noise, outputs  # noqa: E402

from residual_st.compression import CompressionConfig, compress  # noqa: E402
from residual_st.errors import InputError  # noqa: E402
from residual_st.huggingface.kinds import KINDS, kind_of  # noqa: E402
from residual_st.stacks import recorded_calls, stack_of  # noqa: E402

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
every_kind = pytest.mark.parametrize("name", TINY)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """Three recordings of different lengths."""
    folder = tmp_path_factory.mktemp("audio")
    samples, rate = soundfile.read(SPEECH)
    for number, seconds in enumerate((26, 20, 24)):
        soundfile.write(folder / f"{number}.wav", np.resize(samples, seconds * rate), rate)
    return folder


def test_every_kind_has_a_tiny_model():
    assert {kind.name for kind in KINDS} == {tiny.kind for tiny in TINY.values()}


def two_utterances(extractor) -> dict:
    """Two utterances, the second shorter if the model has a mask for padding."""
    return batch_of(extractor, noise(1.3), noise(0.82 if extractor.return_attention_mask else 1.3, seed=2))


@every_kind
def test_full_rank_keeps_the_outputs(name):
    """Although alignment permutes and rotates units to match other layers."""
    model, extractor = make(name)
    assert kind_of(model).name == TINY[name].kind
    inputs, stack = two_utterances(extractor), stack_of(model)
    assert TINY[name].stack in [path for path, module in model.named_modules() if module is stack.layers]
    before = outputs(model, inputs)
    result = compress(model, CompressionConfig(group_size=2, rank=32, diagonal=False), stack=stack)
    assert result.parameters_after > result.parameters_before  # full rank plus shared matrices
    torch.testing.assert_close(outputs(model, inputs), before, rtol=1e-3, atol=1e-3 * before.abs().max().item())


@every_kind
def test_calibration_ignores_padding(name):
    """A batch of two utterances has as many positions as the two separately."""
    model, extractor = make(name)
    if not extractor.return_attention_mask:
        return
    stack, positions = stack_of(model), []
    for utterances in ([noise(1.3)], [noise(0.82)], [noise(1.3), noise(0.82)]):
        with recorded_calls(stack) as calls:
            kind_of(model).encode(model, batch_of(extractor, *utterances))
        states, padding = calls[3].inputs, calls[3].padding
        positions.append([states.size(1)] if padding is None else (~padding).sum(1).tolist())
    assert positions[0] == positions[2][:1] and positions[0] > positions[1]
    more = positions[2][1] - positions[1][0]
    assert 0 <= more < (4 if name == "moonshine" else 1)  # Moonshine takes the mask of every 384th sample


# test_folder.py covers Whisper; the test of full rank covers the differences of the others
ELSEWHERE = {"whisper", "wavlm alone", "conformer, rotary", "wav2vec2_bert, relative"}


@pytest.mark.parametrize("name", [name for name in TINY if name not in ELSEWHERE])
def test_commands_compress_inspect_and_expand(name, audio, tmp_path):
    """Compressed with calibration, loaded, saved and expanded. transformers loads the expanded folder."""
    dense, extractor = make(name, tmp_path / "dense")
    size = ["--group-size", "2", "--residual-rank", "3"]
    calibration = ["--calibration", audio, "--calibration-batches", "2", "--refine-updates", "2"]
    figures = json.loads(cli("compress", tmp_path / "dense", "--output", tmp_path / "shared", *size, *calibration, "--json").stdout)
    assert figures["dense"]["loss"] > 0 and figures["compressed"]["loss"] > 0
    model, inputs = huggingface.load(tmp_path / "shared"), two_utterances(extractor)
    assert type(model) is type(dense) and stack_of(model).is_shared
    expected = outputs(model, inputs)
    assert (expected - outputs(dense, inputs)).abs().max() > 1e-4

    huggingface.save(model, tmp_path / "again", tmp_path / "shared")
    assert torch.equal(outputs(huggingface.load(tmp_path / "again"), inputs), expected)
    figures = json.loads(cli("inspect", tmp_path / "again", "--json").stdout)
    named = figures["kind"], figures["encoder_stack"], figures["groups"], figures["residual_rank"]
    assert named == (TINY[name].kind, TINY[name].stack, [0, 0, 1, 1], 3)
    cli("expand", tmp_path / "again", "--output", tmp_path / "expanded")
    expanded_model = getattr(transformers, type(dense).__name__).from_pretrained(tmp_path / "expanded").eval()
    torch.testing.assert_close(outputs(expanded_model, inputs), expected, rtol=1e-4, atol=1e-4)
    assert not stack_of(expanded_model).is_shared
    assert expanded_model.state_dict().keys() == dense.state_dict().keys()


def test_seamless_is_calibrated_on_the_target_language(audio, tmp_path):
    make("seamless, text", tmp_path / "dense")
    for asked, written in (([], "eng"), (["--target-lang", "deu"], "deu")):
        calibration = ["--calibration", audio, "--calibration-batches", "1", *asked, "--json"]
        figures = json.loads(cli("compress", tmp_path / "dense", "--output", tmp_path / written, *calibration).stdout)
        assert [row["target_lang"] for row in figures["calibrated_on"]] == [written]


def test_weights_used_only_in_training_may_be_missing(tmp_path):
    """As in folders of converted models. Other weights are required."""
    model, extractor = make("wav2vec2", tmp_path / "dense")
    file = tmp_path / "dense" / "model.safetensors"
    weights = load_file(file)
    del weights["wav2vec2.masked_spec_embed"]
    save_file(weights, file, {"format": "pt"})
    assert torch.equal(
        outputs(huggingface.load(tmp_path / "dense"), two_utterances(extractor)), outputs(model, two_utterances(extractor))
    )
    del weights["lm_head.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError, match="missing keys, first lm_head.weight"):
        huggingface.load(tmp_path / "dense")


def test_unsupported_model_is_refused(tmp_path):
    transformers.BertModel(
        transformers.BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    ).save_pretrained(tmp_path / "bert")
    for command in (["compress", tmp_path / "bert", "--output", tmp_path / "out"], ["inspect", tmp_path / "bert"]):
        result = cli(*command, check=False)
        assert result.returncode == 2
        assert (
            "bert contains BertModel, which is not supported; it must be one of WhisperForConditionalGeneration, Speech2Text"
            in result.stderr
        )
        assert "HubertForCTC" in result.stderr
    result = cli("inspect", "--json", check=False)
    assert result.returncode == 2 and "give one checkpoint, one folder, or --arch NAME" in result.stderr
