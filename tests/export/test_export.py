"""Exported checkpoints: contents, sizes and refusals."""

import copy
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import spox
import torch
import yaml
from conftest import BIN, USER_DIR, cli, linked, run, tiny_model
from torch import nn

from residual_st.audio.filterbank import filterbank
from residual_st.audio.reading import read_audio
from residual_st.export.encoder import encoder_graph
from residual_st.export.fairseq_input import filterbank_of
from residual_st.export.fairseq_model import encoder_parts
from residual_st.export.names import shorten_names
from residual_st.export.products import Products
from residual_st.export.quantization import quantized, quantized_in_blocks
from residual_st.fairseq.model_input import ModelInput
from residual_st.fairseq.standalone import build_model, parse_model_flags
from residual_st.runtime.model import Model
from residual_st.runtime.settings import Settings
from residual_st.sharing import form_of, share_layers

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"
GRAPHS = ("encoder.onnx", "cross_attention.onnx", "decoder.onnx")


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("options", [{}, {"activation_fn": "gelu", "no_scale_embedding": True, "layernorm_embedding": True}])
def test_export_verifies_its_outputs(options, precision, data, fairseq_train, tmp_path):
    fairseq_train(data, tmp_path / "run", max_update=4, **options)
    checkpoint, output = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "model"
    shown = cli("export", checkpoint, "--data", data, "--output", output, "--precision", precision, "--check", SPEECH).stdout
    assert "s of audio: encoder states " in shown
    description = json.loads((output / "model.json").read_text())
    assert sorted(path.name for path in output.iterdir()) == sorted([*GRAPHS, "README.md", "model.json"])
    assert description["files"].keys() == set(GRAPHS)
    limit = 1e-3 if precision == "fp32" else 1.0
    assert 0 < description["differences"]["states"] < limit
    assert 0 < description["differences"]["log_probs"] < limit


def test_recognition_model_is_exported(data, fairseq_train, tmp_path):
    flags = {"criterion": "label_smoothed_cross_entropy_with_residual", "ctc_weight": 0.3, "decoder_group_size": 1}
    fairseq_train(data, tmp_path / "run", "asr", max_update=4, decoder_layers=2, **flags)
    cli("export", tmp_path / "run" / "checkpoint_last.pt", "--data", data, "--output", tmp_path / "model", "--check", SPEECH)
    description = json.loads((tmp_path / "model" / "model.json").read_text())
    assert description["has_ctc"]
    assert len(description["vocabulary"]["symbols"]) == len((data / "spm_unigram110_asr.txt").read_text().splitlines()) + 4
    assert cli("translate", tmp_path / "model", SPEECH, "--max-len-b", "5").stdout


@torch.no_grad()
def test_post_norm_layers_are_exported():
    """As in Vaswani et al. No flag of fairseq-train selects them, but archs of forks do."""
    model = tiny_model(encoder_normalize_before=False, decoder_normalize_before=False).eval()
    samples = torch.randn(1, 16_000).numpy() * 0.1
    session = onnxruntime.InferenceSession(
        encoder_graph(encoder_parts(model), filterbank_of(ModelInput()), "fp32").SerializeToString()
    )
    states, *_ = session.run(None, {"samples": samples, "lengths": np.array([16_000])})
    frames = ModelInput().features(samples[0])
    expected = model.encoder(frames[None], torch.tensor([len(frames)]))["encoder_out"][0].transpose(0, 1)
    assert np.abs(states - expected.numpy()).max() < 1e-3


def test_shared_matrices_are_stored_once():
    model = tiny_model(encoder_group_size=3, encoder_residual_rank=4)
    graph = encoder_graph(encoder_parts(model), filterbank_of(ModelInput()), "fp32").graph
    shapes = Counter(tuple(tensor.dims) for tensor in graph.initializer)
    width, inner = 32, 48
    groups, layers = 2, 6
    assert shapes[width, 3 * width] == groups  # queries, keys and values
    assert shapes[width, inner - width] == shapes[inner - width, width] == groups  # the units beyond the diagonal
    assert shapes[width, width] == groups * 3  # the output projection and the other square matrices
    assert shapes[4, width] == layers * 6  # the low-rank residuals of each layer
    stored = sum(np.prod(tensor.dims) for tensor in graph.initializer)
    owned = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert owned < stored < owned * 1.1  # and tables of the filterbank


@pytest.mark.parametrize("precision, group_size, least_ratio", [("int8", "3", 8.0), ("int8", "12", 14.5), ("int4", "12", 20.0)])
def test_rounded_files_are_smaller(precision, group_size, least_ratio):
    def megabytes(precision, *flags):
        model = build_model(parse_model_flags("s2t_residual_transformer_s", list(flags)), 20)
        graph = encoder_graph(encoder_parts(model), filterbank_of(ModelInput()), precision)
        shorten_names(graph)
        return len(graph.SerializeToString()) / 1e6

    dense = megabytes("fp32", "--encoder-group-size", "1", "--encoder-residual-rank", "0", "--no-encoder-residual-diagonal")
    residual = megabytes(precision, "--encoder-group-size", group_size, "--encoder-residual-rank", "16")
    assert dense / residual > least_ratio


def test_int8_rounding_error_is_at_most_half_a_step_of_each_row():
    weight = torch.randn(6, 40) * torch.tensor([1e-6, 1e-3, 1.0, 30.0, 1e-2, 0.0])[:, None]
    rounded, scales = quantized(weight)
    error = (rounded.float() * scales[:, None] - weight).abs().amax(1)
    assert (error[1:] <= scales[1:] * 0.57).all()  # half a step, plus the rounding of scales to half precision
    assert rounded.abs().max() == 127


def test_int8_error_of_factors_is_at_most_that_of_their_product():
    torch.manual_seed(1)
    (left, _), (right, _) = (torch.linalg.qr(torch.randn(256, 48)) for _ in range(2))
    layer = nn.Linear(256, 256, bias=False)
    layers = nn.ModuleList([nn.Sequential(copy.deepcopy(layer))])
    share_layers(layers, form_of(layers, group_size=1, rank="=48", diagonal=False))
    sizes = torch.logspace(1, -1, 48)  # singular values spread as those of a trained matrix
    with torch.no_grad():
        (factors,) = layers[0]
        factors.up.copy_(left * sizes.sqrt())
        factors.down.copy_((right * sizes.sqrt()).T)
        layer.weight.copy_(factors.weight)
    x = torch.randn(200, 256)

    def error(linear) -> float:
        inputs = spox.argument(spox.Tensor(np.float32, ("rows", 256)))
        graph = spox.build({"x": inputs}, {"y": Products("int8").linear(inputs, linear)})
        (y,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x.numpy()})
        return float(np.linalg.norm(y - (x @ layer.weight.T).detach().numpy()))

    assert error(factors) < 1.5 * error(layer)


@pytest.mark.parametrize("width", [64, 48])
def test_4_bit_product_equals_that_of_the_rounded_matrix(width):
    torch.manual_seed(1)
    weight = torch.randn(40, width) * torch.logspace(-9, 1, 40)[:, None]
    integers, scales = quantized_in_blocks(weight)
    rounded = (integers * scales[..., None]).flatten(1)
    assert (rounded - weight).square().sum(1).div(weight.square().sum(1))[20:].max() < 0.02  # first scales are subnormal
    inputs = spox.argument(spox.Tensor(np.float32, ("rows", width)))
    graph = spox.build({"x": inputs}, {"y": Products("int4").multiply(inputs, weight)})
    assert "MatMulNBits" in {node.op_type for node in graph.graph.node}
    x = torch.randn(7, width)
    (y,) = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), x @ rounded.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_tied_embedding_is_stored_once(precision):
    products, weight = Products(precision), torch.randn(96, 64)
    places = spox.argument(spox.Tensor(np.int64, ("places",)))
    graph = spox.build({"places": places}, {"y": products.multiply(products.rows(weight, places), weight)}).graph
    assert sum(np.prod(tensor.dims) == weight.numel() for tensor in graph.initializer) == 1
    assert sum(np.prod(tensor.dims) for tensor in graph.initializer) < weight.numel() * 1.1


MEASURE = """
import sys
import numpy as np
import onnxruntime

def megabytes():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1000

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
before = megabytes()
session = onnxruntime.InferenceSession(sys.argv[1], options)
for _ in range(2):
    session.run(None, {"samples": np.zeros((1, 8000), np.float32), "lengths": np.array([8000])})
print(megabytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("precision, bytes_per_weight", [("fp32", 4), ("int4", 0.5)])
def test_shared_matrix_is_in_memory_once(precision, bytes_per_weight, tmp_path):
    sizes = {}
    for group_size in ("1", "12"):
        flags = ["--encoder-group-size", group_size, "--encoder-residual-rank", "2"]
        model = build_model(parse_model_flags("s2t_residual_transformer_s", flags), 20)
        (tmp_path / group_size).write_bytes(
            encoder_graph(encoder_parts(model), filterbank_of(ModelInput()), precision).SerializeToString()
        )
        sizes[group_size] = float(run(sys.executable, "-c", MEASURE, tmp_path / group_size).stdout)
    one_stack = 12 * 1.31 * bytes_per_weight  # MB of the dense model's matrices
    assert sizes["1"] > one_stack
    assert sizes["12"] < sizes["1"] - 0.8 * one_stack * 11 / 12


def test_models_that_cannot_be_exported_are_refused_by_name(data, shared_checkpoint, fairseq_train, tmp_path):
    def refused(checkpoint, message, *arguments):
        result = cli("export", checkpoint, "--output", tmp_path / "model", *arguments, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "model").exists()

    refused(tmp_path / "none.pt", "none.pt does not exist")
    refused(shared_checkpoint, "config_none.yaml does not exist", "--config-yaml", "config_none.yaml")
    refused(shared_checkpoint, "the dictionary in", "--data", data, "--config-yaml", "config_asr_plain.yaml")
    refused(shared_checkpoint, "talk.wav does not exist", "--data", data, "--check", tmp_path / "talk.wav")
    fairseq_train(data, tmp_path / "tanh", max_update=1, activation_fn="tanh")
    refused(tmp_path / "tanh" / "checkpoint_last.pt", "--activation-fn tanh cannot be exported", "--data", data)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").touch()
    result = cli("export", shared_checkpoint, "--data", data, "--output", tmp_path / "model", "--force", check=False)
    assert "is not a model folder" in result.stderr


def generate_and_compare(checkpoint: Path, exported: Path, data: Path, config: str) -> list[str]:
    """Texts of recordings by fairseq-generate, one at a time and on stored features, equal those of the exported model."""
    model, recordings, rows = Model(exported), sorted(SPEECH.parent.glob("*.wav")), ["id\taudio\tn_frames\ttgt_text"]
    for number, path in enumerate(recordings):
        features = filterbank(read_audio(path, model.folder.sample_rate), model.folder.sample_rate)
        np.save(data / f"{number}.npy", features)
        rows.append(f"{number}\t{data / str(number)}.npy\t{len(features)}\tein Satz")
    (data / "test.tsv").write_text("\n".join(rows) + "\n")
    flags = ["--user-dir", USER_DIR, "--task", "speech_to_text", "--config-yaml", config, "--gen-subset", "test", "--cpu"]
    flags += ["--path", checkpoint, "--beam", "5", "--max-len-b", "20", "--num-workers", "0", "--batch-size", "1"]
    lines = re.findall(r"^D-(\d+)\t\S+\t(.*)$", run(BIN / "fairseq-generate", data, *flags).stdout, re.MULTILINE)
    texts = {int(number): text for number, text in lines}
    assert sorted(texts) == list(range(len(recordings)))
    for number, path in enumerate(recordings):
        samples = read_audio(path, model.folder.sample_rate)
        assert model.vocabulary.text(model.search([samples], Settings(max_len_b=20))[0][0].tokens) == texts[number]
    return list(texts.values())


def test_data_configuration_is_applied(data, shared_checkpoint, tmp_path):
    """A configuration other than the recipe's: fairseq-generate on stored features writes the same texts."""
    folder, rate = tmp_path / "data", 8_000
    folder.mkdir()
    np.savez(tmp_path / "stats.npz", mean=np.full(80, 9.0), std=np.full(80, 2.5))
    config = yaml.safe_load((data / "config_st_plain.yaml").read_text()) | {
        "sample_rate": rate,
        "transforms": {"*": ["global_cmvn", "utterance_cmvn"]},
        "utterance_cmvn": {"norm_vars": False},
        "global_cmvn": {"stats_npz_path": str(tmp_path / "stats.npz")},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(data / config["vocab_filename"], folder)
    output = tmp_path / "model"
    cli("export", shared_checkpoint, "--data", folder, "--config-yaml", "config.yaml", "--output", output, "--check", SPEECH)
    assert json.loads((output / "model.json").read_text())["sample_rate"] == rate
    assert any(generate_and_compare(shared_checkpoint, output, folder, "config.yaml"))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"use_audio_input": True}, "has use_audio_input"),
        ({"input_channels": 2}, "input_channels=2"),
        ({"sample_rate": 4000}, "sample_rate=4000"),
        ({"sample_rate": "fast"}, "sample_rate=fast"),
        ({"transforms": {"*": ["utterance_cmvn", "delta_deltas"]}}, "the transform DeltaDeltas"),
        ({"waveform_transforms": {"*": ["noiseaugment"]}}, "waveform_transforms noiseaugment"),
        ({"transforms": {"*": ["global_cmvn"]}, "global_cmvn": {"stats_npz_path": "gone.npz"}}, "gone.npz"),
    ],
)
def test_unsupported_data_configurations_are_refused(data, shared_checkpoint, tmp_path, entries, message):
    config = linked(data, tmp_path / "data", "config_st_plain.yaml")
    config.write_text(yaml.safe_dump(yaml.safe_load((data / config.name).read_text()) | entries))
    result = cli("export", shared_checkpoint, "--data", config.parent, "--output", tmp_path / "model", check=False)
    assert result.returncode == 2 and message in result.stderr, result.stderr
    assert len(result.stderr.splitlines()) == 1


RELATIVE = {"attn_type": "espnet", "pos_enc_type": "rel_pos", "encoder_group_size": 3, "encoder_residual_rank": 3}


@pytest.mark.parametrize("flags", [{}, RELATIVE])
def test_texts_of_a_conformer_equal_those_of_fairseq_generate(flags, data, fairseq_train, tmp_path):
    fairseq_train(data, tmp_path / "run", arch="s2t_conformer", depthwise_conv_kernel_size=7, max_update=3, **flags)
    checkpoint, outputs = tmp_path / "run" / "checkpoint_last.pt", {}
    state = torch.load(checkpoint, weights_only=True)
    for name, value in state["model"].items():
        if "encoder_attn" in name and name.endswith("weight"):
            value *= 6  # trained until texts depend on the audio
    torch.save(state, checkpoint)
    for precision in ("fp32", "int8"):
        outputs[precision] = tmp_path / precision
        arguments = ["--data", data, "--precision", precision, "--check", SPEECH]
        cli("export", checkpoint, "--output", outputs[precision], *arguments)
    linked(data, tmp_path / "data", "test.tsv")
    texts = generate_and_compare(checkpoint, outputs["fp32"], tmp_path / "data", "config_st_plain.yaml")
    assert len(set(texts)) > 1
    assert cli("translate", outputs["int8"], SPEECH, "--max-len-b", "5").stdout
