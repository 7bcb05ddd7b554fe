"""What a model holds, in figures."""

import argparse

import torch
from fairseq.models import BaseFairseqModel
from torch import nn

from residual_st.fairseq.flags import PARTS
from residual_st.fairseq.kinds import part_of, stacks_of
from residual_st.sharing import (
    ResidualLinear,
    SharedForm,
    current_form,
    in_order,
    matrices,
    matrix_parameters,
    residual_energies,
    shape_of,
)
from residual_st.stacks import LayerStack


def describe(model: BaseFairseqModel, flags: argparse.Namespace) -> dict:
    """Parameters and bytes by part, and the sharing of the encoder and, if it shares anything, of the decoder.

    How layers share is read off the layers, not off the flags.
    """
    stacks = stacks_of(model)
    parameters = _parameters(model, stacks)
    encoder = stacks.get("encoder")
    figures = {
        "arch": flags.arch,
        **_sizes("encoder", encoder),
        "encoder_parameters": sum(parameter.numel() for parameter in whole_part(model, "encoder").parameters()),
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **_sharing(encoder),
    }
    if "decoder" in stacks and stacks["decoder"].is_shared:
        sharing = {f"decoder_{name}": value for name, value in _sharing(stacks["decoder"]).items()}
        figures |= _sizes("decoder", stacks["decoder"]) | sharing
    return figures | {
        "parts": {
            name: {
                "parameters": sum(parameter.numel() for parameter in members),
                "bytes": sum(parameter.numel() * parameter.element_size() for parameter in members),
            }
            for name, members in parameters.items()
        }
    }


def whole_part(model: BaseFairseqModel, part: str) -> nn.Module:
    """The whole encoder or decoder; an empty module where there is none."""
    return getattr(model, part_of(model, part).root, None) or nn.Module()


def _parameters(model: BaseFairseqModel, stacks: dict[str, LayerStack]) -> dict[str, list[nn.Parameter]]:
    """Every parameter once, by the part that it is of."""
    parts = {}
    if hasattr(whole_part(model, "encoder"), "subsample"):
        parts["encoder subsampler"] = model.encoder.subsample
    for name, stack in stacks.items():
        if name == "encoder" or stack.is_shared:
            parts[f"{name} layers"] = stack.layers
        if stack.is_shared:
            parts[f"{name} shared weights"] = stack.owner.shared_weights
    parameters = {name: list(part.parameters()) for name, part in parts.items()}
    counted = {id(parameter) for members in parameters.values() for parameter in members}
    for name in PARTS:
        rest = [parameter for parameter in whole_part(model, name).parameters() if id(parameter) not in counted]
        parameters[f"{name} other" if f"{name} layers" in parts else name] = rest
        counted |= {id(parameter) for parameter in rest}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in counted]
    return parameters | ({"other": rest} if rest else {})


def _sizes(part: str, stack: LayerStack | None) -> dict:
    shapes = [shape_of(matrix) for layer in (in_order(stack.layers) if stack else ()) for _, matrix in matrices(layer)]
    dense, kept = sum(outputs * inputs for outputs, inputs in shapes), matrix_parameters(stack.layers) if stack else 0
    return {
        f"{part}_weight_fraction": round(kept / dense, 3) if dense else 0.0,  # of a part without layers
        f"{part}_matrix_parameters": kept,
        f"dense_{part}_matrix_parameters": dense,
    }


def _sharing(stack: LayerStack | None) -> dict:
    layers = len(stack.layers) if stack else 0
    if stack is None or not stack.is_shared:
        form = {"group_size": 1, "residual_rank": 0, "residual_diagonal": False, "sharing_pattern": "adjacent"}
        return {**form, "groups": list(range(layers))}
    form: SharedForm = current_form(stack.layers, stack.owner.shared_weights)
    named = form.to_flags("")
    return {
        **{name: named[name] for name in ("group_size", "residual_rank", "residual_diagonal", "sharing_pattern")},
        "groups": list(form.plan.groups),
    }


def residual_energy(model: BaseFairseqModel) -> list[dict]:
    """For each layer and matrix, the squared norm of its residual over that of its shared weight. The decoder's names say so."""
    rows = []
    with torch.no_grad():
        for part, stack in stacks_of(model).items():
            for index, layer in enumerate(in_order(stack.layers)):
                for name, linear in matrices(layer):
                    if isinstance(linear, ResidualLinear) and linear.shared_weight is not None:
                        residual, shared = residual_energies([linear]).item(), linear.shared_weight.double().square().sum().item()
                        ratio = residual / shared if shared else 0.0  # in a model without training the output projections are 0
                        matrix = name if part == "encoder" else f"decoder.{name}"
                        rows.append({"layer": index, "matrix": matrix, "residual_to_shared": round(ratio, 6)})
    return rows
