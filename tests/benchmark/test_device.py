"""`benchmark device` compares exported models."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import cli

from residual_st.benchmark.device import lengths

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
def test_each_model_has_a_row_with_ratios_to_the_first(exported, runs, shared_checkpoint, data, tmp_path):
    if not (runs / "int8").exists():
        cli("export", shared_checkpoint, "--data", data, "--output", runs / "int8", "--precision", "int8")
    output = tmp_path / "device.jsonl"
    models = [f"one={exported}", f"two={runs / 'int8'}"]
    flags = ["--seconds", "0.5,1", "--threads", "1", "--repeats", "2", "--audio", SPEECH, "--output", output]
    shown = cli("benchmark", "device", *models, *flags).stdout
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["system"], row["precision"], row["threads"]) for row in rows] == [("one", "fp32", 1), ("two", "int8", 1)]
    for name in ("one", "two"):
        assert name in shown
    assert rows[0]["encoder_file_bytes"] == (exported / "encoder.onnx").stat().st_size
    assert rows[0]["latency_1s_ratio"] == [1, 1, 1]
    for figure in ("latency_0.5s", "times_real_time", "process_bytes", "load_seconds"):
        low, high = rows[1][f"{figure}_ratio"][1:]
        assert rows[1][figure] > 0
        assert 0 < low <= rows[1][f"{figure}_ratio"][0] <= high
    assert rows[0]["onnxruntime"] is not None


def test_wrong_usage_is_refused(exported, tmp_path):
    for arguments, message in (
        (["one"], "one must have the form NAME=DIR"),
        ([f"one={exported}", f"one={exported}"], "with a different NAME for each folder"),
        ([f"one={exported}", "--repeats", "0"], "--repeats 0"),
        ([f"one={exported}", "--audio", tmp_path / "none.wav"], "none.wav does not exist"),
        ([f"one={tmp_path}"], "has no model.json"),
        ([f"one={exported}", "--seconds", "1,61"], "--seconds 61 must be above 0 and at most 60, the limit of one"),
    ):
        result = cli("benchmark", "device", *arguments, "--output", tmp_path / "device.jsonl", check=False)
        assert result.returncode == 2, arguments
        assert message in result.stderr


def test_default_lengths_fit_every_model(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "short")
    description = json.loads((exported / "model.json").read_text())
    (tmp_path / "short" / "model.json").write_text(json.dumps({**description, "longest_seconds": 12}))
    assert lengths({"one": exported}, None) == [0.5, 1, 5, 20]
    assert lengths({"one": exported, "two": tmp_path / "short"}, None) == [0.5, 1, 5, 12]
