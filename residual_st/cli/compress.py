"""Compress a trained dense model into one with shared layers, without training (optionally with a short refinement)."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from residual_st.cli.arguments import (
    Renamed,
    add_data_arguments,
    add_device_argument,
    add_direction_arguments,
    add_output_arguments,
    add_user_dir_argument,
    chosen_device,
)
from residual_st.cli.compress_tables import BYTES, encoder_bytes, figures_of, format_tables, prefix_of, sizes_tried, tensor_bytes
from residual_st.errors import InputError
from residual_st.files import refuse_existing
from residual_st.sharing.plan import PATTERNS
from residual_st.sharing.ranks import ResidualRanks

if TYPE_CHECKING:
    from residual_st.compression import CompressionConfig
    from residual_st.compression.moments import Moments

_DIRECTION = ("task", "source_lang", "target_lang")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        metavar="DENSE",
        help="checkpoint of a dense fairseq model, or folder of a Hugging Face model (docs/kinds.md lists the supported kinds)",
    )
    add_output_arguments(parser, "X", "checkpoint or folder to write")
    parser.add_argument(
        "--group-size", type=int, metavar="K", help="layers that share one matrix (default: 3, or chosen by the size option)"
    )
    parser.add_argument(
        "--sharing-pattern",
        default="adjacent",
        metavar="PATTERN",
        help=f"which layers share: {', '.join(PATTERNS)}, or a list of groups such as 0,0,1,1 (default: adjacent)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--residual-rank", type=ResidualRanks.flag, metavar="R", help="rank of the residuals, or a list of ranks (default: 2)"
    )
    size.add_argument(
        "--encoder-weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the encoder's matrix weights to keep, above 0 up to 1; chooses ranks and group size",
    )
    size.add_argument(
        "--weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the matrix weights of the whole model to keep; chooses both parts' fractions, and needs --calibration",
    )
    size.add_argument(
        "--max-loss",
        type=percentage,
        metavar="P%",
        help="find the smallest encoder whose loss on held-out batches rises by at most P%%, such as 1%%; needs --calibration",
    )
    size.add_argument("--encoder-mbytes", type=float, metavar="MB", help="size of the whole encoder in float32, in MB (10^6 bytes)")
    decoder = parser.add_argument_group(
        "decoder", "The decoder stays dense unless one of these is given. --diagonal and the calibration data apply to it too."
    )
    decoder.add_argument("--decoder-group-size", type=int, metavar="K", help="decoder layers that share one matrix")
    decoder.add_argument("--decoder-sharing-pattern", metavar="PATTERN", help="same as --sharing-pattern, for the decoder")
    decoder_size = decoder.add_mutually_exclusive_group()
    decoder_size.add_argument(
        "--decoder-residual-rank", type=ResidualRanks.flag, metavar="R", help="same as --residual-rank, for the decoder"
    )
    decoder_size.add_argument(
        "--decoder-weight-fraction",
        type=float,
        metavar="F",
        help="fraction of the decoder's matrix weights to keep; chooses ranks and group size",
    )
    parser.add_argument(
        "--diagonal", action=argparse.BooleanOptionalAction, default=True, help="whether residuals have a diagonal (default: yes)"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="DATA",
        help="calibration data: for a fairseq model, the folder with its training manifests; for a Hugging Face model, a folder of "
        "audio, optionally with one subfolder per language, or a TSV with the column audio and optionally src_lang, tgt_lang, task",
    )
    words = parser.add_argument_group(
        "language of calibration (Hugging Face models)",
        "The model is calibrated on the words that it generates for this direction.",
    )
    add_direction_arguments(words, "from the folders or columns of --calibration, else the model's own setting")
    add_data_arguments(parser, "manifests to draw calibration batches from")
    parser.add_argument("--valid-subset", metavar="NAME[,NAME]", help="manifests to compute losses on (default: the checkpoint's)")
    parser.add_argument(
        "--calibration-batches",
        type=int,
        metavar="N",
        help="calibration batches of 10,000 frames (fairseq, default: 30) or of half a minute (Hugging Face, default: 24)",
    )
    parser.add_argument(
        "--refine-updates",
        type=int,
        default=0,
        metavar="N",
        help="updates that fit the layers' outputs to those of the dense model, without labels (default: 0)",
    )
    parser.add_argument(
        "--correction-batches",
        type=int,
        metavar="N",
        help="extra batches for correction and refinement (default: 0 for fairseq, --refine-updates / 5 for Hugging Face)",
    )
    parser.add_argument(
        "--refine-batches", action=Renamed, const="give --correction-batches; these batches now also serve the correction"
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="random seed for choosing calibration batches (default: 1)"
    )
    add_device_argument(parser)
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def percentage(text: str) -> float:
    """An argparse type: `1%` or `0.01`."""
    hint = "give a percentage such as 1% or 0.01"
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage; {hint}") from None
    if not text.endswith("%") and 1 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} without a percent sign means {value:.0%}; write {text}% or {value / 100:g}")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0% and 100%; {hint}")
    return value


def run(args: argparse.Namespace) -> int:
    if args.calibration_batches is None:
        args.calibration_batches = 24 if Path(args.checkpoint).is_dir() else 30
    if args.calibration_batches < 1:
        raise InputError(f"--calibration-batches {args.calibration_batches} must be at least 1")
    if args.refine_updates < 0:
        raise InputError(f"--refine-updates {args.refine_updates} must be at least 0")
    if args.max_loss and _compresses_decoder(args):
        raise InputError("--max-loss applies to the encoder alone; compress the decoder in a second run, without --max-loss")
    if args.correction_batches is None:
        # measured in docs/real_models.md: each half-minute is then used about four times
        args.correction_batches = math.ceil(args.refine_updates / 5) if Path(args.checkpoint).is_dir() else 0
    if args.weight_fraction and args.decoder_weight_fraction:
        raise InputError(
            "--weight-fraction cannot be combined with --decoder-weight-fraction: it chooses the decoder's size itself"
        )
    if args.correction_batches < 0:
        raise InputError(f"--correction-batches {args.correction_batches} must be at least 0")
    for name in (
        "refine_updates",
        "correction_batches",
        "config_yaml",
        "subset",
        "valid_subset",
        "max_loss",
        "weight_fraction",
        *_DIRECTION,
    ):
        if getattr(args, name) and not args.calibration:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)} needs --calibration DATA")
    figures = _compress_folder(args) if Path(args.checkpoint).is_dir() else _compress_checkpoint(args)
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


def _compress_checkpoint(args: argparse.Namespace) -> dict:
    refuse_existing(args.output, args.force)
    for name in _DIRECTION:
        if getattr(args, name):
            raise InputError(
                f"--{name.replace('_', '-')} is for Hugging Face folders; fairseq models are calibrated on their manifests' words"
            )
    from residual_st.fairseq.checkpoints import save_checkpoint
    from residual_st.fairseq.conversion import read_model, residual_checkpoint
    from residual_st.fairseq.description import whole_part
    from residual_st.fairseq.training_data import TrainingData

    device = chosen_device(args.device)
    state, model = read_model(args.checkpoint, residual=False)
    forms = _forms(args, model)
    model.to(device)
    data = None
    if args.calibration:
        data = TrainingData(state, args.calibration, args.config_yaml, args.subset, args.valid_subset, device)
        data.require_manifests(validation=True)
    before = data and data.likelihoods(model)
    calibration = data and data.calibration(args.calibration_batches, args.seed, args.correction_batches)
    compressed, probes = _compress_parts(args, model, forms, calibration, data and data.decode)
    result = residual_checkpoint(state, model.cpu(), compressed)
    save_checkpoint(result, args.output)
    # sizes of the weights: the dense file may also hold an optimizer's state
    sizes = {"model_bytes": tensor_bytes(result["model"]), "dense_model_bytes": tensor_bytes(state["model"])}
    losses = {"dense": before, "compressed": data.likelihoods(model.to(device))} if data else {}
    figures = {"output": args.output, "encoder_bytes": encoder_bytes(whole_part(model, "encoder"))}
    return {**figures, **_figures(compressed), **sizes, **losses, **sizes_tried(probes)}


def _compress_folder(args: argparse.Namespace) -> dict:
    """Compress a Hugging Face model. Returns the figures to print."""
    from residual_st import huggingface
    from residual_st.stacks import stack_of

    huggingface.refuse_existing(args.output, args.force)
    for name in ("config_yaml", "subset", "valid_subset"):
        if getattr(args, name):
            raise InputError(
                f"--{name.replace('_', '-')} is for fairseq checkpoints; {args.checkpoint} is calibrated on a folder of audio"
            )
    source, device = Path(args.checkpoint), chosen_device(args.device)
    model = huggingface.load(source)
    dtype, dense_bytes = model.dtype, tensor_bytes(dict(model.named_parameters()))  # tied weights are counted once, as in the file
    model.float()  # computes in float32; the result has the folder's precision again
    forms = _forms(args, model)
    model.to(device)
    calibration, held_out = None, None
    if args.calibration:
        from residual_st.languages import Direction

        direction = Direction(**{name: getattr(args, name) for name in _DIRECTION})
        calibration, held_out = huggingface.audio_calibration(
            model, source, args.calibration, args.calibration_batches, args.seed, args.correction_batches, direction
        )
    before = held_out and held_out.likelihood(model)
    compressed, probes = _compress_parts(args, model, forms, calibration, calibration and calibration.predict)
    huggingface.save(model.cpu(), args.output, source, dtype)
    sizes = {"model_bytes": tensor_bytes(dict(model.named_parameters())), "dense_model_bytes": dense_bytes}
    losses = {"dense": before, "compressed": held_out.likelihood(model.to(device).float())} if held_out else {}
    figures = {"output": args.output, "encoder_bytes": encoder_bytes(stack_of(model).whole)}
    if calibration:
        figures["calibrated_on"] = huggingface.directions_of(huggingface.languages_of(model, source), calibration.batches)
    return {**figures, **_figures(compressed), **sizes, **losses, **sizes_tried(probes)}


def _forms(args: argparse.Namespace, model) -> dict[str, "CompressionConfig"]:
    """Part -> the settings of `compress` for it. An impossible form is refused here, before calibration starts."""
    from residual_st.compression import plan_form
    from residual_st.stacks import stack_of

    forms = {"encoder": _encoder_form(args, stack_of(model))}
    if args.weight_fraction:
        forms["decoder"] = _wanted_form(args, "decoder")
        forms = {part: replace(form, weight_fraction=args.weight_fraction) for part, form in forms.items()}
    elif _compresses_decoder(args):
        forms["decoder"] = _wanted_form(args, "decoder")
    for part, form in forms.items():
        plan_form(stack_of(model, part), form, calibrated=bool(args.calibration))
    return forms


def _compress_parts(
    args: argparse.Namespace, model, forms: dict[str, "CompressionConfig"], calibration, decode
) -> tuple[dict, list]:
    """Part -> the result of `compress`, and the sizes that were tried for --max-loss.

    Args:
        decode: function that runs the decoder's layers, as the calibration's `encode` runs the encoder's.
    """
    from residual_st.compression import fractions_of_parts
    from residual_st.stacks import stack_of

    moments: dict[str, Moments] = {}
    if args.weight_fraction:
        stacks = {part: stack_of(model, part) for part in forms}
        fractions, moments = fractions_of_parts(model, stacks, calibration, args.weight_fraction, args.diagonal)
        forms = {part: replace(form, weight_fraction=fractions[part]) for part, form in forms.items()}
        moments.pop("decoder")
    compressed = {}
    for part, form in forms.items():  # the decoder is calibrated on the output of the compressed encoder
        if calibration and part == "decoder":
            calibration = replace(calibration, encode=decode)
        compressed[part], probes = _compress(args, model, stack_of(model, part), form, calibration, moments.get(part))
    return compressed, probes


def _figures(compressed: dict) -> dict:
    return {name: value for part, outcome in compressed.items() for name, value in figures_of(part, outcome).items()}


def _compress(args: argparse.Namespace, model, stack, form: "CompressionConfig", calibration, moments=None) -> tuple:
    """The result of `compress` for a part, and the sizes that were tried for --max-loss."""
    from residual_st.compression import compress, compress_within

    if not args.max_loss:
        return compress(model, form, stack=stack, calibration=calibration, moments=moments), []
    return compress_within(model, args.max_loss, calibration, form, stack=stack)


def _wanted_form(args: argparse.Namespace, part: str) -> "CompressionConfig":
    """The settings of `compress` for a part. The encoder's options have no prefix, except its size."""
    from residual_st.compression import CompressionConfig

    prefix = prefix_of(part)
    return CompressionConfig(
        group_size=getattr(args, f"{prefix}group_size"),
        pattern=getattr(args, f"{prefix}sharing_pattern") or "adjacent",
        rank=getattr(args, f"{prefix}residual_rank"),
        weight_fraction=getattr(args, f"{part}_weight_fraction"),
        diagonal=args.diagonal,
        refine_updates=args.refine_updates,
    )


def _encoder_form(args: argparse.Namespace, stack) -> "CompressionConfig":
    form = _wanted_form(args, "encoder")
    if args.encoder_mbytes is None:
        return form
    return replace(form, weight_fraction=fraction_of_bytes(stack, args.encoder_mbytes))


def _compresses_decoder(args: argparse.Namespace) -> bool:
    """Whether the decoder is compressed: only if one of its options is given."""
    options = (args.decoder_group_size, args.decoder_sharing_pattern, args.decoder_residual_rank, args.decoder_weight_fraction)
    return any(option is not None for option in options)


def fraction_of_bytes(stack, megabytes: float) -> float:
    """The weight fraction at which a stack's encoder takes `megabytes` (10^6 bytes) in float32."""
    from residual_st.sharing import matrix_parameters

    matrices = matrix_parameters(stack.layers)
    rest = sum(parameter.numel() for parameter in stack.whole.parameters()) - matrices
    fraction = (megabytes * 1e6 / BYTES - rest) / matrices
    if fraction > 1:
        raise InputError(
            f"--encoder-mbytes {megabytes:g} must be at most {(rest + matrices) * BYTES / 1e6:.2f}, the size of the dense encoder"
        )
    if not fraction > 0:
        raise InputError(
            f"--encoder-mbytes {megabytes:g} must be above {rest * BYTES / 1e6:.2f}, the size of the weights that cannot be shared"
        )
    return fraction
