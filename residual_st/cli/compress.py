"""Turn a trained dense checkpoint into a residual one that translates nearly as well at once."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from residual_st.cli.arguments import add_data_arguments, add_output_arguments
from residual_st.errors import InputError
from residual_st.files import refuse_existing
from residual_st.sharing.plan import PATTERNS
from residual_st.sharing.ranks import ResidualRanks

BYTES = 4  # of a float32 weight


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="DENSE",
        help="checkpoint of an s2t_transformer of any size, or folder of Hugging Face's Whisper or Speech2Text",
    )
    add_output_arguments(parser, "X", "checkpoint, or folder, to write")
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
    decoder = parser.add_argument_group("decoder", "stays dense without one of these; --diagonal and the data are the encoder's")
    decoder.add_argument("--decoder-group-size", type=int, metavar="K", help="decoder layers that share one matrix")
    decoder.add_argument("--decoder-sharing-pattern", metavar="PATTERN", help="as --sharing-pattern")
    decoder_size = decoder.add_mutually_exclusive_group()
    decoder_size.add_argument("--decoder-residual-rank", type=ResidualRanks.flag, metavar="R", help="as --residual-rank")
    decoder_size.add_argument(
        "--decoder-weight-fraction", type=float, metavar="F", help="kept matrix weights; chooses ranks and group size"
    )
    parser.add_argument("--diagonal", action=argparse.BooleanOptionalAction, default=True, help="residuals have a diagonal")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="the manifests that the model was trained on; for Hugging Face's, audio",
    )
    add_data_arguments(parser, "manifests to draw calibration batches from")
    parser.add_argument("--valid-subset", metavar="NAME[,NAME]", help="manifests to compare losses on (default: the checkpoint's)")
    parser.add_argument(
        "--calibration-batches", type=int, default=30, metavar="N", help="of 10,000 frames, or half a minute (default: 30)"
    )
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
    if args.calibration_batches < 1:
        raise InputError(f"--calibration-batches {args.calibration_batches} must be at least 1")
    if args.refine_updates < 0:
        raise InputError(f"--refine-updates {args.refine_updates} must be at least 0")
    for name in ("refine_updates", "config_yaml", "subset", "valid_subset"):
        if getattr(args, name) and not args.calibration:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} needs --calibration DATA")
    figures = _compress_folder(args) if Path(args.checkpoint).is_dir() else _compress_checkpoint(args)
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


def _compress_checkpoint(args: argparse.Namespace) -> dict:
    refuse_existing(args.output, args.force)
    from residual_st.checkpoints import save_checkpoint
    from residual_st.compression import compress, plan_form
    from residual_st.models.conversion import read_model, residual_checkpoint
    from residual_st.stacks import stack_of
    from residual_st.training_data import TrainingData

    state, model = read_model(args.checkpoint, residual=False)
    forms = {"encoder": _encoder_form(args, stack_of(model))}
    if decoder_form := _decoder_form(args):
        forms["decoder"] = decoder_form
    for part, form in forms.items():
        plan_form(stack_of(model, part), **form)  # refused before minutes of calibration
    data = None
    if args.calibration:
        data = TrainingData(state, args.calibration, args.config_yaml, args.subset, args.valid_subset)
        data.require_manifests(validation=True)
    before = data and data.likelihoods(model)
    calibration = data and data.calibration(args.calibration_batches, args.seed)
    compressed = {}
    for part, form in forms.items():  # the decoder is calibrated on what it reads from now on
        if calibration and part == "decoder":
            calibration = replace(calibration, encode=data.decode)
        compressed[part] = compress(
            model, stack=stack_of(model, part), **form, refine_updates=args.refine_updates, calibration=calibration
        )
    result = residual_checkpoint(state, model, compressed)
    save_checkpoint(result, args.output)
    # the dense file may hold an optimizer too, which is no part of it
    sizes = {"model_bytes": _tensor_bytes(result["model"]), "dense_model_bytes": _tensor_bytes(state["model"])}
    losses = {"dense": before, "compressed": data.likelihoods(model)} if data else {}
    figures = {"output": args.output, "encoder_bytes": _encoder_bytes(model.encoder)}
    for part, outcome in compressed.items():
        figures |= _figures(part, outcome)
    return {**figures, **sizes, **losses}


def _compress_folder(args: argparse.Namespace) -> dict:
    """Of a Hugging Face model."""
    from residual_st import transformers
    from residual_st.compression import compress, plan_form
    from residual_st.stacks import stack_of

    transformers.refuse_existing(args.output, args.force)
    if _decoder_form(args):
        raise InputError(f"{args.checkpoint} is a folder; only decoders of fairseq models can be shared, not Hugging Face's")
    for name in ("config_yaml", "subset", "valid_subset"):
        if getattr(args, name):
            raise InputError(
                f"--{name.replace('_', '-')} is of fairseq's data; {args.checkpoint} is calibrated on a folder of audio"
            )
    source = Path(args.checkpoint)
    model = transformers.load(source)
    stack = stack_of(model)
    form = _encoder_form(args, stack)
    plan_form(stack, **form)
    calibration, held_out = None, None
    if args.calibration:
        calibration, held_out = transformers.audio_calibration(model, source, args.calibration, args.calibration_batches, args.seed)
    dense_bytes = _tensor_bytes(dict(model.named_parameters()))  # in which weights that are tied stand once, as in the file
    before = held_out and held_out.likelihood(model)
    compressed = compress(model, **form, refine_updates=args.refine_updates, calibration=calibration)
    transformers.save(model, args.output, source, compressed.form)
    sizes = {"model_bytes": _tensor_bytes(dict(model.named_parameters())), "dense_model_bytes": dense_bytes}
    losses = {"dense": before, "compressed": held_out.likelihood(model)} if held_out else {}
    figures = {"output": args.output, "encoder_bytes": _encoder_bytes(stack.owner), **_figures("encoder", compressed)}
    return {**figures, **sizes, **losses}


def _wanted_form(args: argparse.Namespace, part: str) -> dict:
    """What `compress` is told of a part. The encoder's options have no prefix, but for its size."""
    prefix = _prefix(part)
    return {
        "group_size": getattr(args, f"{prefix}group_size"),
        "pattern": getattr(args, f"{prefix}sharing_pattern"),
        "rank": getattr(args, f"{prefix}residual_rank"),
        "weight_fraction": getattr(args, f"{part}_weight_fraction"),
        "diagonal": args.diagonal,
    }


def _encoder_form(args: argparse.Namespace, stack) -> dict:
    form = _wanted_form(args, "encoder")
    if args.encoder_mbytes is not None:
        form["weight_fraction"] = fraction_of_bytes(stack, args.encoder_mbytes)
    return form


def _decoder_form(args: argparse.Namespace) -> dict | None:
    """None where the decoder is to stay dense."""
    form = _wanted_form(args, "decoder")
    if all(form[name] is None for name in ("group_size", "pattern", "rank", "weight_fraction")):
        return None
    return {**form, "pattern": form["pattern"] or "adjacent"}


def _prefix(part: str) -> str:
    return "" if part == "encoder" else f"{part}_"


def _figures(part: str, compressed) -> dict:
    prefix = _prefix(part)
    return {
        f"{prefix}sharing_pattern": str(compressed.form.plan),
        f"{prefix}residual_rank": str(compressed.form.ranks),
        f"{prefix}residual_diagonal": compressed.form.diagonal,
        f"{part}_weight_fraction": round(compressed.parameters_after / compressed.parameters_before, 4),
        f"{part}_matrix_parameters": compressed.parameters_after,
        f"dense_{part}_matrix_parameters": compressed.parameters_before,
        f"{prefix}relative_errors": [{name: round(error, 4) for name, error in row.items()} for row in compressed.errors],
    }


def _encoder_bytes(encoder) -> int:
    return BYTES * sum(parameter.numel() for parameter in encoder.parameters())


def _tensor_bytes(weights: dict) -> int:
    return sum(value.numel() * value.element_size() for value in weights.values())


def fraction_of_bytes(stack, megabytes: float) -> float:
    """The weight fraction at which a stack's encoder, in float32, has that size."""
    from residual_st.sharing import matrix_parameters

    matrices = matrix_parameters(stack.layers)
    rest = sum(parameter.numel() for parameter in stack.owner.parameters()) - matrices
    fraction = (megabytes * 1e6 / BYTES - rest) / matrices
    if fraction <= 0:
        raise InputError(
            f"--encoder-mbytes {megabytes:g} cannot be met: what no layer can share takes {rest * BYTES / 1e6:.2f} MB alone"
        )
    return fraction


def format_tables(figures: dict) -> str:
    sizes = [
        [f"{part} matrices", figures[f"dense_{part}_matrix_parameters"], figures[f"{part}_matrix_parameters"]]
        for part in ("encoder", "decoder")
        if f"{part}_matrix_parameters" in figures
    ]
    sizes.append(["whole model, bytes", figures["dense_model_bytes"], figures["model_bytes"]])
    plan = [
        ["groups", figures["sharing_pattern"]],
        ["residual rank", figures["residual_rank"]],
        ["residual diagonal", figures["residual_diagonal"]],
        ["encoder weight fraction", figures["encoder_weight_fraction"]],
    ]
    for name in ("sharing_pattern", "residual_rank", "weight_fraction"):
        if f"decoder_{name}" in figures:
            plan.append([f"decoder {name.replace('_', ' ')}", figures[f"decoder_{name}"]])
    tables = [
        *(_error_table(title, figures[key]) for title, key in _ERROR_TABLES.items() if key in figures),
        tabulate(plan, tablefmt="plain", disable_numparse=True),
        tabulate(sizes, ["size", "dense", "residual"], intfmt=","),
    ]
    if "dense" in figures:
        losses = [
            [f"{name} on the validation subset", value, figures["compressed"][name]] for name, value in figures["dense"].items()
        ]
        tables.append(tabulate(losses, ["per token, base 2", "dense", "residual"], floatfmt=".3f"))
    return "\n\n".join([*tables, f"wrote {figures['output']}"])


_ERROR_TABLES = {"relative error": "relative_errors", "relative error, decoder": "decoder_relative_errors"}


def _error_table(title: str, errors: list[dict[str, float]]) -> str:
    rows = [[layer, *row.values()] for layer, row in enumerate(errors)]
    return f"{title}\n" + tabulate(rows, ["layer", *errors[0]], floatfmt=".3f")
