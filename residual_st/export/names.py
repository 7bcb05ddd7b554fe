"""Short names inside a graph, since long ones take up a noticeable part of a small file."""

from itertools import count

import onnx


def shorten_names(model: onnx.ModelProto) -> None:
    """Replace the names of all values except the graph's inputs and outputs by numbers, and remove names of nodes, in place."""
    graph, numbers = model.graph, count()
    kept = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""}  # an optional input that is not given

    def rename(name: str) -> str:
        if name in kept:
            return name
        if name not in short:
            short[name] = f"{next(numbers):x}"
        return short[name]

    for tensor in graph.initializer:
        tensor.name = rename(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = map(rename, node.input)
        node.output[:] = map(rename, node.output)
    del graph.value_info[:]
