"""Graphs, vocabulary and what is needed to trust them, as a folder for the device runtime."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import onnx

from residual_st.export.check import Differences
from residual_st.export.names import shorten_names
from residual_st.runtime.folder import DESCRIPTION, FORMAT, checksum, weights_of

LARGEST_GRAPH = 2**31 - 2**26  # bytes of weights: protobuf takes 2 GB, the rest of a graph included
_LIBRARIES = ("torch", "onnx", "spox", "onnxruntime")

_README = """# An exported speech-to-text model

{arch}, {precision}, {megabytes:.1f} MB. The same model as the one that it was made from, for onnxruntime 1.21 or later; each
shared matrix is stored once.

    pip install "./residual-st[runtime]"   # ./residual-st: its source, which is on no package index; no torch, no fairseq
    residual-st translate FOLDER talk.wav

- `encoder.onnx`: {takes} -> `states`, {gives}
{decoder}- `model.json`: vocabulary, lengths, versions, checksums
"""

_ENCODER = "`samples` (batch, n), 16 kHz in [-1, 1], and `lengths`", "`state_lengths`"
_STREAMING = "the samples of the next chunk of one recording, and caches", "caches"
_DECODER = """- `cross_attention.onnx`: `states` -> the decoder's keys and values of the source, once for each utterance
- `decoder.onnx`: one step; caches of keys and values in and out, reordered by `order`
"""


def write_folder(output: Path, graphs: dict[str, onnx.ModelProto], described: dict, check: Callable[[Path], Differences]) -> dict:
    """Write an exported model, and check it against what it was made from.

    Args:
        output: the folder, which is there and empty.
        graphs: by the names of their files; their inner names are shortened.
        described: what `model.json` is to say beside files, versions and differences: `arch`, `precision`, `has_ctc`, `vocabulary`
            and what else `runtime.folder.Folder` needs.
        check: of the folder, against the model.

    Returns:
        What model.json says.

    Raises:
        InputError: as `check` does.
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
    """Larger ones than a protobuf may be get their weights in a file beside them."""
    if sum(len(weights.raw_data) for weights in graph.graph.initializer) > LARGEST_GRAPH:
        onnx.save_model(graph, path, save_as_external_data=True, location=weights_of(path.name))
        path.with_name(weights_of(path.name)).chmod(path.stat().st_mode)  # onnx keeps it from other users
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
