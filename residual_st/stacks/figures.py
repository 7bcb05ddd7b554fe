"""Size and sharing figures of a stack, for any model."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from residual_st.sharing import (
    ResidualLinear,
    in_order,
    matrices,
    matrix_parameters,
    residual_energies,
    shape_of,
)
from residual_st.stacks.layer_stack import LayerStack


def sizes_of(part: str, stack: LayerStack | None) -> dict[str, Any]:
    """Numbers of weights in the matrices of a model's encoder or decoder, kept and dense."""
    shapes = [shape_of(matrix) for layer in (in_order(stack.layers) if stack else ()) for _, matrix in matrices(layer)]
    dense, kept = sum(outputs * inputs for outputs, inputs in shapes), matrix_parameters(stack.layers) if stack else 0
    return {
        f"{part}_weight_fraction": round(kept / dense, 3) if dense else 0.0,  # a part without layers
        f"{part}_matrix_parameters": kept,
        f"dense_{part}_matrix_parameters": dense,
    }


def sharing_of(stack: LayerStack | None) -> dict[str, Any]:
    """How the layers of a stack share, read from the layers."""
    layers = len(stack.layers) if stack else 0
    if stack is None or not stack.is_shared:
        dense = {"group_size": 1, "residual_rank": 0, "residual_diagonal": False, "sharing_pattern": "adjacent"}
        return {**dense, "groups": list(range(layers))}
    form = stack.form
    named = form.to_flags("")
    return {
        **{name: named[name] for name in ("group_size", "residual_rank", "residual_diagonal", "sharing_pattern")},
        "groups": list(form.plan.groups),
    }


def bytes_and_parameters(members: Iterable[nn.Parameter]) -> dict[str, int]:
    """Number and bytes of a part's parameters."""
    members = list(members)
    return {
        "parameters": sum(parameter.numel() for parameter in members),
        "bytes": sum(parameter.numel() * parameter.element_size() for parameter in members),
    }


def residual_energy(stacks: Mapping[str, LayerStack]) -> list[dict[str, Any]]:
    """For each layer and matrix of a model's parts, the squared norm of its residual / that of its shared weight.

    Names of the decoder's matrices begin with `decoder.`.
    """
    rows = []
    with torch.no_grad():
        for part, stack in stacks.items():
            for index, layer in enumerate(in_order(stack.layers)):
                for name, linear in matrices(layer):
                    if isinstance(linear, ResidualLinear) and linear.shared_weight is not None:
                        residual, shared = residual_energies([linear]).item(), linear.shared_weight.double().square().sum().item()
                        ratio = residual / shared if shared else 0.0  # in an untrained model the output projections are 0
                        matrix = name if part == "encoder" else f"decoder.{name}"
                        rows.append({"layer": index, "matrix": matrix, "residual_to_shared": round(ratio, 6)})
    return rows
