"""Untrusted files are refused in one sentence. benchmarks/faults/corruption.py tries hundreds on every command."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from conftest import cli, linked
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from residual_st.audio.reading import read_audio
from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import load_checkpoint, read_checkpoint
from residual_st.runtime import Translator


class Call:
    """An object that is pickled as a function call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def refused(*arguments, saying: str) -> None:
    result = cli(*arguments, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and saying in result.stderr, result.stderr


def archive(path, data_pkl: bytes, records: dict, compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {"data.pkl": data_pkl, "byteorder": b"little", "version": b"3\n", **records}.items():
            file.writestr(f"archive/{name}", content)


def parts(path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name.partition("/")[2]: file.read(name) for name in file.namelist()}


def test_storage_with_a_false_length_is_refused(shared_checkpoint, tmp_path):
    """torch would read memory beyond it. fairseq's reader is protected, too."""
    torch.save({"model": {"weight": torch.zeros(7)}, "args": None}, tmp_path / "a.pt")
    contents = parts(tmp_path / "a.pt")
    changed = contents.pop("data.pkl").replace(b"K\x07tq", b"J" + struct.pack("<i", 2**20) + b"tq")
    archive(tmp_path / "a.pt", changed.replace(b"K\x07\x85", b"J" + struct.pack("<i", 2**20) + b"\x85"), contents)
    refused("inspect", tmp_path / "a.pt", saying="cannot be read as a checkpoint")
    with pytest.raises(InputError, match="does not have the length given in the pickle"):
        load_checkpoint_to_cpu(str(tmp_path / "a.pt"))
    assert load_checkpoint_to_cpu(str(shared_checkpoint))["model"]


@pytest.mark.parametrize("size", ["expanded", "aliases", "compressed"])
def test_small_file_with_huge_weights_is_refused(shared_checkpoint, tmp_path, size):
    state = load_checkpoint(shared_checkpoint)
    if size == "compressed":
        contents = parts(shared_checkpoint)
        archive(tmp_path / "a.pt", contents.pop("data.pkl"), {**contents, "data/0": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    else:
        value = torch.zeros(1).expand(2**36) if size == "expanded" else torch.zeros(2**20)
        names = [f"alias{number}" for number in range(1 if size == "expanded" else 400)]
        torch.save({**state, "model": {**state["model"], **dict.fromkeys(names, value)}}, tmp_path / "a.pt")
    for command in (["inspect"], ["average", "--output", tmp_path / "b.pt"], ["strip", "--output", tmp_path / "b.pt"]):
        refused(command[0], tmp_path / "a.pt", *command[1:], saying="a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_nested_containers_with_a_billion_entries_are_refused(shared_checkpoint, tmp_path):
    value = ["ha"]
    for _ in range(12):
        value = [value] * 10
    for extra in ({"x": value}, {"x": value, "object": Call(print, ("ha",))}):  # once read by torch, once read as data
        torch.save({**load_checkpoint(shared_checkpoint), "extra_state": extra}, tmp_path / "a.pt")
        refused("inspect", tmp_path / "a.pt", saying="more than 10,000,000 entries")


@pytest.mark.parametrize(
    ("flags", "saying"),
    [
        ({"encoder_layers": 10**9}, "but the checkpoint has 6 such layers"),
        ({"encoder_layers": "six"}, "such layers"),
        ({"encoder_embed_dim": 10**9}, "flags"),
        ({"max_source_positions": 10**12}, "more than 100,000"),
        ({"encoder_sharing_pattern": "0," * 100_000}, "more than 10,000 characters"),
        ({"arch": ["a"]}, "name its architecture"),
        ({"conv_kernel_sizes": 5}, "flags"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_flags_of_wrong_size_or_type_are_refused(shared_checkpoint, tmp_path, flags, saying):
    state = load_checkpoint(shared_checkpoint)
    model = state["cfg"]["model"]
    model = vars(model) if not isinstance(model, dict) else model
    torch.save({**state, "cfg": {"model": {**model, **flags}}, "args": None}, tmp_path / "a.pt")
    refused("inspect", tmp_path / "a.pt", saying=saying)


@pytest.mark.parametrize("cfg", [[1], "model", 7, {"task": {}}], ids=str)
def test_invalid_configurations_are_refused(shared_checkpoint, tmp_path, cfg):
    torch.save({**load_checkpoint(shared_checkpoint), "cfg": cfg, "args": None}, tmp_path / "a.pt")
    refused("inspect", tmp_path / "a.pt", saying="a.pt")


def test_invalid_weights_are_refused(shared_checkpoint, tmp_path):
    state = load_checkpoint(shared_checkpoint)
    name = "encoder.transformer_layers.0.fc1.bias"
    value = state["model"][name]
    for changed, saying in {
        value.long(): "is torch.int64",
        value.to_sparse(): "not an ordinary dense tensor",
        value * float("nan"): "not finite numbers",
        value[:-1].clone(): "has shape",
    }.items():
        torch.save({**state, "model": {**state["model"], name: changed}}, tmp_path / "a.pt")
        refused("inspect", tmp_path / "a.pt", saying=saying)
    torch.save({**state, "model": {**state["model"], 7: value}}, tmp_path / "a.pt")
    refused("average", tmp_path / "a.pt", "--output", tmp_path / "b.pt", saying="not a named tensor")


def test_control_characters_in_names_are_escaped(shared_checkpoint, tmp_path):
    state = load_checkpoint(shared_checkpoint)
    torch.save({**state, "model": {**state["model"], "odd\n\x1b[31m": torch.zeros(1)}}, tmp_path / "a.pt")
    refused("inspect", tmp_path / "a.pt", saying="odd\\n\\x1b[31m")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tmp_path, content, packed):
    path = tmp_path / "a.pt"
    if packed:
        archive(path, content, {})
    else:
        path.write_bytes(content)
    with pytest.raises(InputError):
        read_checkpoint(path)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_random_contents_are_read_or_refused(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    try:
        assert isinstance(read_checkpoint(tmp_path / "a.pt")[0]["model"], dict)
    except InputError:
        return


def test_manifest_without_a_column_is_named(shared_checkpoint, data, tmp_path):
    manifest = linked(data, tmp_path / "data", "train_st.tsv")
    manifest.write_text("id\taudio\n1\ta.wav\n")
    saying = "train_st.tsv has no column `n_frames`; a manifest must have the columns id, audio, n_frames, tgt_text"
    refused("cache-teacher", shared_checkpoint, "--data", manifest.parent, "--output", tmp_path / "words", saying=saying)


def test_recursive_training_configuration_is_refused(tmp_path):
    lines = ["a: &a [x, x]", *(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]" for n in range(20))]
    (tmp_path / "run.yaml").write_text("\n".join(["data: x", *lines]))
    refused("train", tmp_path / "run.yaml", "--dry-run", saying="must have a value")


def sound(samples: np.ndarray, rate: int = 16000, **options) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "FLAC", **options})
    file.seek(0)
    return file


def test_decoding_stops_at_the_maximum_length():
    silence = sound(np.zeros(48000 * 100, np.float32), 48000)
    assert len(silence.getvalue()) < 100_000
    with pytest.raises(InputError, match="the recording is longer than 1 minutes"):
        read_audio(silence, 16000, most_samples=16000 * 60)
    with pytest.raises(InputError, match="is longer than"):
        read_audio(sound(np.zeros(10**5, np.float32), 1, format="WAV"), 16000)  # a day at 1 Hz
    silence.seek(0)
    assert len(read_audio(silence, 16000, most_samples=16000 * 100)) == 16000 * 100


def test_swapped_graphs_are_refused(exported, tmp_path):
    import hashlib
    import json
    import shutil

    shutil.copytree(exported, tmp_path / "model")
    content = (exported / "decoder.onnx").read_bytes()
    (tmp_path / "model" / "encoder.onnx").write_bytes(content)
    description = json.loads((exported / "model.json").read_text())
    description["files"]["encoder.onnx"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "model" / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="does not have the inputs of a graph of this name"):
        Translator(tmp_path / "model")
    description["sample_rate"] = 0
    (tmp_path / "model" / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match="sample_rate is 0"):
        Translator(tmp_path / "model")


def test_pickles_that_run_commands_are_refused(tmp_path):
    touch = f"touch {tmp_path}/exploded"
    for name, value in {
        "call": Call(os.system, (touch,)),
        "torch": Call(torch.storage._load_from_bytes, (pickle.dumps(1),)),
    }.items():
        torch.save({"model": {"x": value}}, tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps({"model": {"x": value}}))
        for path in (tmp_path / f"{name}.pt", tmp_path / f"{name}.pkl"):
            refused("inspect", path, saying=path.name)
    assert not (tmp_path / "exploded").exists()
