"""What a model holds, in figures."""

import argparse

import torch
from fairseq.models import BaseFairseqModel
from torch import nn

from residual_st.fairseq.form import PARTS
from residual_st.fairseq.layers.shared_layers import layers_of
from residual_st.sharing import ResidualLinear, matrices, matrix_parameters, residual_energies


def describe(model: BaseFairseqModel, flags: argparse.Namespace) -> dict:
    """Parameters and bytes by part, and the sharing of the encoder and, if it shares anything, of the decoder."""
    parameters = _parameters(model)
    figures = {
        "arch": flags.arch,
        **_sizes("encoder", model.encoder),
        "encoder_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **_sharing("encoder", model.encoder, flags),
    }
    if len(getattr(model.decoder, "shared_weights", ())):
        decoder = _sizes("decoder", model.decoder), _sharing("decoder", model.decoder, flags)
        figures |= decoder[0] | {f"decoder_{name}": value for name, value in decoder[1].items()}
    return figures | {
        "parts": {
            name: {
                "parameters": sum(parameter.numel() for parameter in members),
                "bytes": sum(parameter.numel() * parameter.element_size() for parameter in members),
            }
            for name, members in parameters.items()
        }
    }


def _parameters(model: BaseFairseqModel) -> dict[str, list[nn.Parameter]]:
    """Every parameter once, by the part that it is of."""
    parts = {"encoder subsampler": model.encoder.subsample}
    for name in PARTS:
        part = getattr(model, name)
        shared = getattr(part, "shared_weights", ())
        if name == "encoder" or len(shared):
            parts[f"{name} layers"] = layers_of(part)
        if len(shared):
            parts[f"{name} shared weights"] = shared
    parameters = {name: list(part.parameters()) for name, part in parts.items()}
    counted = {id(parameter) for members in parameters.values() for parameter in members}
    for name in PARTS:
        rest = [parameter for parameter in getattr(model, name).parameters() if id(parameter) not in counted]
        parameters[f"{name} other" if f"{name} layers" in parts else name] = rest
    return parameters


def _sizes(part: str, module: nn.Module) -> dict:
    layers = layers_of(module)
    linears = [linear for layer in layers for _, linear in matrices(layer)]
    dense, kept = sum(linear.in_features * linear.out_features for linear in linears), matrix_parameters(layers)
    return {
        f"{part}_weight_fraction": round(kept / dense, 3) if dense else 0.0,  # of a part without layers
        f"{part}_matrix_parameters": kept,
        f"dense_{part}_matrix_parameters": dense,
    }


def _sharing(part: str, module: nn.Module, flags: argparse.Namespace) -> dict:
    plan = getattr(getattr(module, "shared_weights", None), "plan", None)
    return {
        "group_size": getattr(flags, f"{part}_group_size", 1),
        "residual_rank": getattr(flags, f"{part}_residual_rank", 0),
        "residual_diagonal": getattr(flags, f"{part}_residual_diagonal", False),
        "sharing_pattern": getattr(flags, f"{part}_sharing_pattern", "adjacent"),
        "groups": list(plan.groups if plan else range(getattr(flags, f"{part}_layers"))),
    }


def residual_energy(model: BaseFairseqModel) -> list[dict]:
    """For each layer and matrix, the squared norm of its residual over that of its shared weight. The decoder's names say so."""
    rows = []
    with torch.no_grad():
        for part in PARTS:
            for index, layer in enumerate(layers_of(getattr(model, part))):
                for name, linear in matrices(layer):
                    if isinstance(linear, ResidualLinear) and linear.shared_weight is not None:
                        residual, shared = residual_energies([linear]).item(), linear.shared_weight.double().square().sum().item()
                        ratio = residual / shared if shared else 0.0  # in a model without training the output projections are 0
                        matrix = name if part == "encoder" else f"decoder.{name}"
                        rows.append({"layer": index, "matrix": matrix, "residual_to_shared": round(ratio, 6)})
    return rows
