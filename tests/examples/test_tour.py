"""The notebook, run from top to bottom."""

import os

import nbformat
from conftest import BIN, ROOT
from nbclient import NotebookClient


def test_every_cell_of_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DEMO_ROOT", str(tmp_path))
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "weights kept: 41%" in printed
    assert "dense again: True" in printed
    assert (tmp_path / "stock.pt").is_file() and (tmp_path / "device" / "encoder.onnx").is_file()
    assert notebook.cells[-2].outputs, "a translation"
