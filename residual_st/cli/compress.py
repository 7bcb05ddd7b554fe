"""Turn a trained dense checkpoint into a residual one that translates nearly as well at once."""

import argparse
import json
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.arguments import add_data_arguments, add_output_arguments
from residual_st.errors import InputError
from residual_st.files import refuse_existing
from residual_st.sharing.plan import PATTERNS
from residual_st.sharing.ranks import ResidualRanks

BYTES = 4  # of a float32 weight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="DENSE.pt", help="checkpoint of an s2t_transformer of any size")
    add_output_arguments(parser, "X.pt")
    parser.add_argument("--group-size", type=int, metavar="K", help="layers that share one matrix (default: 3, or by the budget)")
    parser.add_argument(
        "--sharing-pattern", default="adjacent", metavar="PATTERN", help=f"{', '.join(PATTERNS)}, or a list of groups"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--residual-rank", type=ResidualRanks.flag, metavar="R", help="rank of the residuals (default: 2), or a list")
    size.add_argument(
        "--encoder-weight-fraction", type=float, metavar="F", help="kept matrix weights; chooses ranks and group size"
    )
    size.add_argument("--encoder-mbytes", type=float, metavar="MB", help="the whole encoder in float32, 1 MB being 10^6 bytes")
    parser.add_argument("--diagonal", action=argparse.BooleanOptionalAction, default=True, help="residuals have a diagonal")
    parser.add_argument("--calibration", type=Path, metavar="DATA", help="folder of manifests the model was trained on")
    add_data_arguments(parser, "manifests to draw calibration batches from")
    parser.add_argument("--valid-subset", metavar="NAME[,NAME]", help="manifests to compare losses on (default: the checkpoint's)")
    parser.add_argument("--calibration-batches", type=int, default=30, metavar="N", help="of 10,000 frames each (default: 30)")
    parser.add_argument(
        "--refine-updates",
        type=int,
        default=0,
        metavar="N",
        help="steps that bring layer outputs closer, without labels (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the choice of calibration batches (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    refuse_existing(args.output, args.force)
    if args.calibration_batches < 1:
        raise InputError(f"--calibration-batches {args.calibration_batches} must be at least 1")
    if args.refine_updates < 0:
        raise InputError(f"--refine-updates {args.refine_updates} must be at least 0")
    for name in ("refine_updates", "config_yaml", "subset", "valid_subset"):
        if getattr(args, name) and not args.calibration:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} needs --calibration DATA")
    from residual_st.checkpoints import save_checkpoint
    from residual_st.compression import compress, plan_form
    from residual_st.models.conversion import read_model, residual_checkpoint
    from residual_st.stacks import stack_of
    from residual_st.training_data import TrainingData

    state, model = read_model(args.checkpoint, residual=False)
    fraction = args.encoder_weight_fraction
    if args.encoder_mbytes is not None:
        fraction = fraction_of_bytes(model, args.encoder_mbytes)
    form = {
        "group_size": args.group_size,
        "pattern": args.sharing_pattern,
        "rank": args.residual_rank,
        "weight_fraction": fraction,
        "diagonal": args.diagonal,
    }
    plan_form(stack_of(model), **form)  # refused before minutes of calibration
    data = None
    if args.calibration:
        data = TrainingData(state, args.calibration, args.config_yaml, args.subset, args.valid_subset)
        data.require_manifests(validation=True)
    before = data and data.likelihoods(model)
    compressed = compress(
        model,
        **form,
        refine_updates=args.refine_updates,
        calibration=data and data.calibration(args.calibration_batches, args.seed),
    )
    result = residual_checkpoint(state, model, compressed)
    save_checkpoint(result, args.output)
    figures = {
        "output": args.output,
        "sharing_pattern": str(compressed.form.plan),
        "residual_rank": str(compressed.form.ranks),
        "residual_diagonal": compressed.form.diagonal,
        "encoder_weight_fraction": round(compressed.parameters_after / compressed.parameters_before, 4),
        "encoder_matrix_parameters": compressed.parameters_after,
        "dense_encoder_matrix_parameters": compressed.parameters_before,
        "encoder_bytes": BYTES * sum(parameter.numel() for parameter in model.encoder.parameters()),
        "model_bytes": _tensor_bytes(result["model"]),
        "dense_model_bytes": _tensor_bytes(state["model"]),  # the dense file may hold an optimizer too, which is no part of it
        "relative_errors": [{name: round(error, 4) for name, error in row.items()} for row in compressed.errors],
    }
    if data:
        figures |= {"dense": before, "compressed": data.likelihoods(model)}
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


def _tensor_bytes(weights: dict) -> int:
    return sum(value.numel() * value.element_size() for value in weights.values())


def fraction_of_bytes(model, megabytes: float) -> float:
    """The weight fraction at which the encoder, in float32, has that size."""
    from residual_st.sharing import matrix_parameters

    matrices = matrix_parameters(model.encoder.transformer_layers)
    rest = sum(parameter.numel() for parameter in model.encoder.parameters()) - matrices
    fraction = (megabytes * 1e6 / BYTES - rest) / matrices
    if fraction <= 0:
        raise InputError(
            f"--encoder-mbytes {megabytes:g} cannot be met: what no layer can share takes {rest * BYTES / 1e6:.2f} MB alone"
        )
    return fraction


def format_tables(figures: dict) -> str:
    names = list(figures["relative_errors"][0])
    errors = [[layer, *row.values()] for layer, row in enumerate(figures["relative_errors"])]
    sizes = [
        ["encoder matrices", figures["dense_encoder_matrix_parameters"], figures["encoder_matrix_parameters"]],
        ["whole model, bytes", figures["dense_model_bytes"], figures["model_bytes"]],
    ]
    plan = [
        ["groups", figures["sharing_pattern"]],
        ["residual rank", figures["residual_rank"]],
        ["residual diagonal", figures["residual_diagonal"]],
        ["encoder weight fraction", figures["encoder_weight_fraction"]],
    ]
    tables = [
        "relative error\n" + tabulate(errors, ["layer", *names], floatfmt=".3f"),
        tabulate(plan, tablefmt="plain", disable_numparse=True),
        tabulate(sizes, ["size", "dense", "residual"], intfmt=","),
    ]
    if "dense" in figures:
        losses = [
            [f"{name} on the validation subset", value, figures["compressed"][name]] for name, value in figures["dense"].items()
        ]
        tables.append(tabulate(losses, ["per token, base 2", "dense", "residual"], floatfmt=".3f"))
    return "\n\n".join([*tables, f"wrote {figures['output']}"])
