"""Writing of exported folders: graphs, vocabulary, checks and checksums."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx

from residual_st.export.check import Differences
from residual_st.export.names import shorten_names
from residual_st.runtime.folder import DESCRIPTION, FORMAT, checksum, weights_of

LARGEST_GRAPH = 2**31 - 2**26  # bytes of weights: protobuf is limited to 2 GB, including the rest of a graph
_LIBRARIES = ("torch", "onnx", "spox", "onnxruntime")

_README = """# An exported speech-to-text model

{arch}, {precision}, {megabytes:.1f} MB. Exported from its source model for onnxruntime 1.21 or later; each
shared matrix is stored once.

    pip install "./residual-st[runtime]"   # ./residual-st: a checkout, since it is on no package index; needs no torch or fairseq
    residual-st translate FOLDER talk.wav

- `encoder.onnx`: {takes} -> `states`, {gives}
{decoder}- `model.json`: vocabulary, lengths, versions, checksums
"""

_ENCODER = "`samples` (batch, n), 16 kHz in [-1, 1], and `lengths`", "`state_lengths`"
_STREAMING = "the samples of the next chunk of one recording, and caches", "caches"
_DECODER = """- `cross_attention.onnx`: `states` -> the decoder's keys and values of the source, once per utterance
- `decoder.onnx`: one step; caches of keys and values in and out, reordered by `order`
"""


def write_folder(output: Path, graphs: dict[str, onnx.ModelProto], described: dict, check: Callable[[Path], Differences]) -> dict:
    """Write an exported model, and check it against its source model.

    Args:
        output: an existing empty folder to write to.
        graphs: file name -> graph; names inside the graphs are shortened.
        described: contents of `model.json` in addition to files, versions and differences: `arch`, `precision`, `has_ctc`,
            `vocabulary` and the other entries that `runtime.folder.Folder` needs.
        check: function that compares the folder with the source model.

    Returns:
        The contents of model.json.

    Raises:
        InputError: see `check`.
    """
    for name, graph in graphs.items():
        shorten_names(graph)
        _write_graph(output / name, graph)
    files = [name for graph in graphs for name in (graph, weights_of(graph)) if (output / name).exists()]
    description = {
        "format": FORMAT,
        **described,
        "files": {name: {"bytes": (output / name).stat().st_size, "sha256": checksum(output / name)} for name in files},
        "versions": {"residual-st": version("residual-st"), **{name: version(name) for name in _LIBRARIES}},
    }
    _write(output, description)
    description["differences"] = vars(check(output))
    _write(output, description)
    (output / "README.md").write_text(_readme(description), encoding="utf-8")
    return description


def _write_graph(path: Path, graph: onnx.ModelProto) -> None:
    """Write a graph. If it is too large for protobuf, its weights go to a second file."""
    if sum(len(weights.raw_data) for weights in graph.graph.initializer) > LARGEST_GRAPH:
        onnx.save_model(graph, path, save_as_external_data=True, location=weights_of(path.name))
        path.with_name(weights_of(path.name)).chmod(path.stat().st_mode)  # onnx makes it unreadable for other users
    else:
        onnx.save_model(graph, path)
    onnx.checker.check_model(path, full_check=True)


def _write(folder: Path, description: dict) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=1), encoding="utf-8")


def _readme(description: dict) -> str:
    takes, gives = _STREAMING if "streaming" in description else _ENCODER
    gives += ", `ctc_log_probs`" if description["has_ctc"] else ""
    megabytes = sum(file["bytes"] for file in description["files"].values()) / 1e6
    decoder = _DECODER if description["decoder"] else ""
    return _README.format(
        arch=description["arch"], precision=description["precision"], megabytes=megabytes, takes=takes, gives=gives, decoder=decoder
    )
