"""Show the parameters and bytes of a checkpoint or an architecture, and how much its layers share."""

import argparse
import json
import os

import torch
from fairseq.models import BaseFairseqModel
from tabulate import tabulate

from residual_st.checkpoints import model_flags
from residual_st.errors import InputError
from residual_st.models.standalone import build_model, load_model, parse_model_flags
from residual_st.modules import ResidualLinear, matrices, matrix_parameters

TAKES_REST = True  # the checkpoint, or the flags of the architecture's own parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "residual-st inspect [--json] (CHECKPOINT | --arch NAME [model flags])"
    parser.add_argument(
        "--arch", help="an architecture instead of a checkpoint; takes the flags of its model, such as --encoder-layers"
    )
    parser.add_argument("--vocab-size", type=int, default=8000, metavar="N", help="target words of --arch (default: 8000)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if args.arch:
        flags = parse_model_flags(args.arch, args.rest)
        figures = describe(build_model(flags, args.vocab_size, "meta"), flags)
    else:
        if len(args.rest) != 1:
            raise InputError("give either one checkpoint, which holds its own flags, or --arch NAME and flags")
        path = args.rest[0]
        state, model = load_model(path, as_stored=True)
        figures = describe(model, model_flags(state, path))
        figures["checkpoint_bytes"] = os.path.getsize(path)
        figures["residual_energy"] = residual_energy(model)
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


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
        "encoder_weight_fraction": round(kept_count / dense, 3),
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
                    ratio = linear.residual_energy().double() / linear.shared_weight.double().square().sum()
                    rows.append({"layer": index, "matrix": name, "residual_to_shared": round(ratio.item(), 6)})
    return rows


def format_tables(figures: dict) -> str:
    parts = [(name, part["parameters"], part["bytes"]) for name, part in figures["parts"].items()]
    parts.append(("total", figures["total_parameters"], sum(part[2] for part in parts)))
    scalars = [(name, value) for name, value in figures.items() if not isinstance(value, (dict, list))]
    scalars.append(("groups", " ".join(map(str, figures["groups"]))))
    tables = [tabulate(scalars, tablefmt="plain"), tabulate(parts, ["part", "parameters", "bytes"], intfmt=",")]
    energies = figures.get("residual_energy")
    if energies:
        names = list(dict.fromkeys(row["matrix"] for row in energies))
        by_layer = {}
        for row in energies:
            by_layer.setdefault(row["layer"], {})[row["matrix"]] = row["residual_to_shared"]
        rows = [[layer, *(values.get(name) for name in names)] for layer, values in by_layer.items()]
        tables.append("residual / shared energy\n" + tabulate(rows, ["layer", *names], floatfmt=".4f"))
    return "\n\n".join(tables)
