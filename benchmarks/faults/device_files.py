"""Damaged or modified exported folders."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import kills


def exported(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Exported folders with damaged files or descriptions."""
    source = work / "device"
    description = json.loads((source / "model.json").read_text())
    speech = str(kills.ROOT / "tests" / "speech" / "arctic_a0007.wav")
    commands = [["translate", "{file}", speech], ["benchmark", "device", "one={file}", "--output", "{out}", "--repeats", "1"]]

    def folder(changes: dict[str, bytes | None], described: dict | None = None, checked: bool = False) -> Callable:
        def write(path: Path) -> None:
            shutil.copytree(source, path)
            for name, content in changes.items():
                (path / name).unlink()
                if content is not None:
                    (path / name).write_bytes(content)
            if described is not None:
                (path / "model.json").write_text(json.dumps(described))
            if checked:  # with valid checksums
                import hashlib

                new = json.loads((path / "model.json").read_text())
                for name in changes:
                    content = (path / name).read_bytes()
                    new["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                (path / "model.json").write_text(json.dumps(new))

        return write

    encoder = (source / "encoder.onnx").read_bytes()
    yield "a graph missing", folder({"encoder.onnx": None}), commands
    yield "a graph cut", folder({"encoder.onnx": encoder[: len(encoder) // 2]}), commands
    flipped = bytearray(encoder)
    flipped[len(encoder) // 2] ^= 4
    yield "a bit turned", folder({"encoder.onnx": bytes(flipped)}), commands
    for kind, content in {
        "empty": b"",
        "text": b"graph",
        "cut": encoder[: len(encoder) // 2],
        "of another part": (source / "decoder.onnx").read_bytes(),
    }.items():
        yield f"a graph {kind}, with its checksum", folder({"encoder.onnx": content}, checked=True), commands
    yield "a graph that names a file elsewhere", folder({"encoder.onnx": outside(encoder)}, checked=True), commands
    texts = {"no JSON": b"{", "a list": b"[]", "empty": b"", "deep": b"[" * 10**5, "NUL": bytes(1000), "numbers": b"7"}
    for name, content in texts.items():
        yield f"model.json, {name}", folder({"model.json": content}), commands
    values = {
        "format": [2, "1", None],
        "sample_rate": [0, -1, 10**12, "x", 1e400],
        "longest_words": [10**12, -1, "x"],
        "longest_seconds": [1e12, -1, "x"],
        "shortest_samples": [-1, 0, 10**12],
        "decoder": [{}, [], {"layers": 10**9, "heads": 10**9, "head_width": 10**9}],
        "files": [{}, {"../../secret": {}}, []],
        "settings": [[], {"beam": 10**9}, {"beam": 2.5}, {"lenpen": "x"}, {"lenpen": 1e400}, {"max_len_b": -1}, {"beams": 5}],
        "vocabulary": [{}, {**description["vocabulary"], "eos": 10**9}, {**description["vocabulary"], "symbols": [1] * 200}],
    }
    for key, alternatives in values.items():
        for number, value in enumerate(alternatives):
            yield f"model.json, {key} {number}", folder({}, {**description, key: value}), commands[:1]


def outside(graph: bytes) -> bytes:
    """The graph with an initializer in ONNX external data outside its folder."""
    import onnx

    model = onnx.load_from_string(graph)
    tensor = next(each for each in model.graph.initializer if len(each.raw_data) > 1000)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../../../../etc/passwd"), ("offset", "0"), ("length", "1000")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()
