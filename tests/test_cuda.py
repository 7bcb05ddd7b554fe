"""Training, decoding and compression on a GPU give the results of the CPU.

RESIDUAL_ST_DEVICE=cpu runs these tests without a GPU, which checks only the tests themselves.
"""

import copy
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from conftest import USER_DIR, cli, run, tiny_model
from fairseq.dataclass.configs import FairseqConfig

from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel

SPEECH = Path(__file__).parent / "speech" / "arctic_a0007.wav"

DEVICE = os.environ.get("RESIDUAL_ST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
DEVICE_FLAGS = {"cpu": True} if DEVICE == "cpu" else {"cpu": None}  # for fairseq-train and fairseq-generate

pytestmark = pytest.mark.skipif(not DEVICE, reason="no GPU on this machine")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="fairseq supports this only on GPUs")
PRECISIONS = [pytest.param("fp16", marks=needs_gpu), pytest.param("amp", marks=needs_gpu), "memory_efficient_fp16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cuda")


@pytest.fixture
def trained(folder, data, fairseq_train):
    """The folder of a model trained on the GPU until its texts depend on the audio."""
    if not (folder / "checkpoint_last.pt").exists():
        fairseq_train(data, folder, max_update=100, lr=5e-3, **DEVICE_FLAGS)
    return folder


@pytest.fixture
def hub(trained, data):
    return S2TResidualTransformerModel.from_pretrained(
        str(trained), "checkpoint_last.pt", str(data), config_yaml="config_st_plain.yaml"
    )


def moved(batch, device):
    return {name: value.to(device) for name, value in batch.items()}


def test_training_losses_equal_those_on_the_cpu(data, fairseq_train, tmp_path):
    options = {"max_update": 8, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    on_cpu = fairseq_train(data, tmp_path / "cpu", **options)
    on_gpu = fairseq_train(data, tmp_path / "gpu", **DEVICE_FLAGS, **options)
    assert on_gpu == pytest.approx(on_cpu, rel=2e-3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_half_precision_training_learns_and_resumes(precision, data, fairseq_train, tmp_path):
    options = {**DEVICE_FLAGS, precision: True, "lr": 5e-3, "encoder_residual_rank": 4}
    before = fairseq_train(data, tmp_path, max_update=30, **options)
    after = fairseq_train(data, tmp_path, max_update=40, **options)
    assert len(after) == 10
    assert all(map(math.isfinite, before + after))
    assert sum(after) / len(after) < 0.9 * sum(before[:5]) / 5


@needs_gpu
@pytest.mark.parametrize("precision", ["fp16", "amp", "memory_efficient_fp16"])
def test_updates_with_overflowing_gradients_are_skipped(precision, data, fairseq_train, tmp_path):
    scale = "amp_init_scale" if precision == "amp" else "fp16_init_scale"
    losses = fairseq_train(data, tmp_path, **DEVICE_FLAGS, **{precision: True, scale: 2**30, "max_update": 4})
    assert len(losses) > 4  # including the skipped batches
    assert all(map(math.isfinite, losses))
    weights = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    assert all(weight.isfinite().all() for name, weight in weights.items() if not name.endswith("_float_tensor"))


@pytest.mark.parametrize("teacher", ["live", "cached"])
def test_distillation_losses_equal_those_on_the_cpu(teacher, trained, data, fairseq_train, tmp_path):
    source, states = trained / "checkpoint_last.pt", 1
    if teacher == "cached":
        cli("cache-teacher", source, "--data", data, "--output", tmp_path / "cache", "--device", DEVICE)
        source, states = tmp_path / "cache", 0
    options = {"max_update": 3, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    options |= {"criterion": "label_smoothed_cross_entropy_with_residual", "distill_from": source, "distill_encoder_weight": states}
    losses = [
        fairseq_train(data, tmp_path / name, **{**options, **device_flags})
        for name, device_flags in {"cpu": {}, "gpu": DEVICE_FLAGS}.items()
    ]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_hub_interface_translates_on_the_gpu(hub):
    expected = hub.predict(SPEECH)
    assert expected
    assert hub.to(DEVICE).predict(SPEECH) == expected
    assert isinstance(hub.half().predict(SPEECH), str)


def test_generate_gives_the_texts_of_the_cpu(trained, data):
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.generate",
        data,
        "--user-dir",
        USER_DIR,
        "--task",
        "speech_to_text",
        "--gen-subset",
        "dev_st",
    ]
    command += ["--config-yaml", "config_st_plain.yaml", "--path", trained / "checkpoint_last.pt", "--max-tokens", "4000"]
    texts = [
        sorted(line for line in run(*command, *device).stdout.splitlines() if line.startswith("D-")) for device in ([], ["--cpu"])
    ]
    without_scores = [[line.split("\t")[::2] for line in lines] for lines in texts]
    assert without_scores[0] == without_scores[1]


@pytest.mark.parametrize("mode", ["compact", "fast"])
def test_inference_modes_keep_the_outputs(mode, batch):
    model = tiny_model(encoder_inference_mode=mode, encoder_residual_rank=4).eval()
    with torch.no_grad():
        expected = model(**batch)[0]
        model.to(DEVICE).prepare_for_inference_(FairseqConfig())
        torch.testing.assert_close(model(**moved(batch, DEVICE))[0].cpu(), expected, rtol=1e-3, atol=1e-3)


def test_model_is_compressed_on_the_gpu(batch):
    dense = tiny_model("s2t_transformer_s").eval()

    def loss(model, batch):
        logits = model(**batch)[0].log_softmax(-1)
        return -logits.gather(-1, batch["prev_output_tokens"][..., None]).sum()

    def encode(model, batch):
        return model.encoder(batch["src_tokens"], batch["src_lengths"])["encoder_out"][0]

    errors, losses = {}, {}
    for device in ("cpu", DEVICE):
        model, here = copy.deepcopy(dense).to(device), moved(batch, device)
        calibration = Calibration([here, here], loss, encode)
        errors[device] = compress(model, CompressionConfig(group_size=3, rank=4, refine_updates=8), calibration=calibration).errors
        losses[device] = loss(model, here).item()
        assert all(value.device.type == device for value in model.state_dict().values())
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=0.02)
    for on_cpu, on_gpu in zip(errors["cpu"], errors[DEVICE]):
        assert on_gpu == pytest.approx(on_cpu, abs=0.05)


def test_checkpoint_compressed_on_the_gpu_is_read_without_one(data, fairseq_train, tmp_path):
    fairseq_train(data, tmp_path, arch="s2t_transformer_s", max_update=20, lr=5e-3, **DEVICE_FLAGS)
    flags = ["--residual-rank", "4", "--calibration", data, "--calibration-batches", "2", "--refine-updates", "4", "--json"]
    losses = {}
    for device in {"cpu", DEVICE}:
        output = tmp_path / f"{device}.pt"
        figures = cli("compress", tmp_path / "checkpoint_last.pt", "--output", output, *flags, "--device", device).stdout
        losses[device] = json.loads(figures)["compressed"]["nll_loss"]
        weights = torch.load(output, weights_only=True)["model"]
        assert all(weight.device.type == "cpu" for weight in weights.values())
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=0.02)
