"""What a model holds, in figures."""

import argparse

import torch
from fairseq.models import BaseFairseqModel

from residual_st.sharing import ResidualLinear, matrices, matrix_parameters, residual_energies


def describe(model: BaseFairseqModel, flags: argparse.Namespace) -> dict:
    """Parameters and bytes by part, and the sharing of the encoder."""
    layers = model.encoder.transformer_layers
    linears = [linear for layer in layers for _, linear in matrices(layer)]
    dense = sum(linear.in_features * linear.out_features for linear in linears)
    kept_count = matrix_parameters(layers)
    parts = {"encoder subsampler": model.encoder.subsample, "encoder layers": layers, "decoder": model.decoder}
    shared = getattr(model.encoder, "shared_weights", None)
    if shared is not None and len(shared):
        parts["encoder shared weights"] = shared
    parameters = {name: list(part.parameters()) for name, part in parts.items()}
    counted = {id(parameter) for members in parameters.values() for parameter in members}
    parameters["encoder other"] = [parameter for parameter in model.encoder.parameters() if id(parameter) not in counted]
    plan = getattr(shared, "plan", None)
    return {
        "arch": flags.arch,
        "encoder_weight_fraction": round(kept_count / dense, 3) if dense else 0.0,  # of an encoder without layers
        "encoder_matrix_parameters": kept_count,
        "dense_encoder_matrix_parameters": dense,
        "encoder_parameters": sum(parameter.numel() for parameter in model.encoder.parameters()),
        "total_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "group_size": getattr(flags, "encoder_group_size", 1),
        "residual_rank": getattr(flags, "encoder_residual_rank", 0),
        "residual_diagonal": getattr(flags, "encoder_residual_diagonal", False),
        "sharing_pattern": getattr(flags, "encoder_sharing_pattern", "adjacent"),
        "groups": list(plan.groups if plan else range(len(layers))),
        "parts": {
            name: {
                "parameters": sum(parameter.numel() for parameter in members),
                "bytes": sum(parameter.numel() * parameter.element_size() for parameter in members),
            }
            for name, members in parameters.items()
        },
    }


def residual_energy(model: BaseFairseqModel) -> list[dict]:
    """For each layer and matrix, the squared norm of its residual over that of its shared weight."""
    rows = []
    with torch.no_grad():
        for index, layer in enumerate(model.encoder.transformer_layers):
            for name, linear in matrices(layer):
                if isinstance(linear, ResidualLinear):
                    residual, shared = residual_energies([linear]).item(), linear.shared_weight.double().square().sum().item()
                    ratio = residual / shared if shared else 0.0  # in a model without training the ends of branches are 0
                    rows.append({"layer": index, "matrix": name, "residual_to_shared": round(ratio, 6)})
    return rows
