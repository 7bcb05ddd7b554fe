"""Graphs with weights in separate files, which protobuf requires above 2 GB. Here the limit is lowered for all graphs."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import cli

from residual_st.errors import InputError
from residual_st.export import folder as export_folder
from residual_st.runtime.folder import GRAPHS
from residual_st.runtime.model import Model

SPEECH = Path(__file__).parents[1] / "speech" / "arctic_a0007.wav"


def test_weights_in_separate_files_are_read_and_checked(shared_checkpoint, exported, data, tmp_path, monkeypatch):
    monkeypatch.setattr(export_folder, "LARGEST_GRAPH", 0)
    large = tmp_path / "large"
    cli("export", shared_checkpoint, "--data", data, "--output", large)
    weights = [f"{graph}.data" for graph in GRAPHS]
    assert set(json.loads((large / "model.json").read_text())["files"]) == {*GRAPHS, *weights}
    assert all((large / graph).stat().st_size < (exported / graph).stat().st_size / 2 for graph in GRAPHS)
    assert len({(large / name).stat().st_mode for name in [*GRAPHS, *weights]}) == 1
    text = cli("translate", large, SPEECH, "--max-len-b", "10").stdout
    assert text == cli("translate", exported, SPEECH, "--max-len-b", "10").stdout

    def refused(change, message):
        folder = tmp_path / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(large, folder)
        change(folder / weights[0], folder / "model.json")
        with pytest.raises(InputError, match=message):
            Model(folder)

    def flip_bit(path, _):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    def remove_entry(_, description):
        content = json.loads(description.read_text())
        del content["files"][weights[0]]
        description.write_text(json.dumps(content))

    def replace_by_link(path, _):
        path.unlink()
        path.symlink_to(large / path.name)

    refused(flip_bit, f"{weights[0]} was changed after export")
    refused(lambda path, _: path.write_bytes(b"short"), "has 5 bytes instead of")
    refused(lambda path, _: path.unlink(), f"{weights[0]} does not exist")
    refused(remove_entry, "model.json is damaged: KeyError")
    refused(replace_by_link, f"{weights[0]} is a link")


def test_web_page_of_a_large_graph_is_refused(shared_checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setattr(export_folder, "LARGEST_GRAPH", 0)
    monkeypatch.setattr("residual_st.web.static.require_ort", lambda: None)
    result = cli("export", shared_checkpoint, "--data", data, "--output", tmp_path / "large", "--web", check=False)
    assert result.returncode == 2
    assert "encoder.onnx of this model is above 2 GB, the limit of browsers; export it with --precision int8" in result.stderr
    assert not (tmp_path / "large").exists()
