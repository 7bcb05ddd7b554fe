"""The models that `residual-st compress` reads, compresses and writes: fairseq checkpoints and Hugging Face folders."""

import argparse
from dataclasses import replace
from pathlib import Path

from residual_st.cli.arguments import chosen_device, option_of
from residual_st.cli.compress_tables import BYTES, encoder_bytes, figures_of, parts_of, prefix_of, sizes_tried, tensor_bytes
from residual_st.compression import CompressionConfig, compress, compress_within, fractions_of_parts, plan_form
from residual_st.compression.moments import Moments
from residual_st.errors import InputError
from residual_st.files import refuse_existing
from residual_st.languages import Direction
from residual_st.sharing import matrix_parameters
from residual_st.stacks import stack_of


def compress_checkpoint(args: argparse.Namespace) -> dict:
    """Compress a fairseq model. Returns the figures to print."""
    refuse_existing(args.output, args.force)
    for name in vars(Direction()):
        if getattr(args, name):
            raise InputError(
                f"{option_of(name)} is for Hugging Face folders; fairseq models are calibrated on their manifests' words"
            )
    from residual_st.fairseq.checkpoints import save_checkpoint
    from residual_st.fairseq.conversion import read_model, residual_checkpoint
    from residual_st.fairseq.description import whole_part
    from residual_st.fairseq.training_data import TrainingData

    device = chosen_device(args.device)
    state, model = read_model(args.checkpoint, residual=False)
    configs = _configs(args, model)
    model.to(device)
    data = None
    if args.calibration:
        data = TrainingData(state, args.calibration, args.config_yaml, args.subset, args.valid_subset, device)
        data.require_manifests(validation=True)
    before = data and data.likelihoods(model)
    calibration = data and data.calibration(args.calibration_batches, args.seed, args.correction_batches)
    compressed, probes = _compress_parts(args, model, configs, calibration, data and data.decode)
    result = residual_checkpoint(state, model.cpu(), compressed)
    save_checkpoint(result, args.output)
    # sizes of the weights: the dense file may also hold an optimizer's state
    sizes = {"model_bytes": tensor_bytes(result["model"]), "dense_model_bytes": tensor_bytes(state["model"])}
    losses = {"dense": before, "compressed": data.likelihoods(model.to(device))} if data else {}
    figures = {"output": args.output, "encoder_bytes": encoder_bytes(whole_part(model, "encoder"))}
    return {**figures, **_figures(compressed), **sizes, **losses, **sizes_tried(probes)}


def compress_folder(args: argparse.Namespace) -> dict:
    """Compress a Hugging Face model. Returns the figures to print."""
    from residual_st import huggingface

    huggingface.refuse_existing(args.output, args.force)
    for name in ("config_yaml", "subset", "valid_subset"):
        if getattr(args, name):
            raise InputError(f"{option_of(name)} is for fairseq checkpoints; {args.checkpoint} is calibrated on a folder of audio")
    source, device = Path(args.checkpoint), chosen_device(args.device)
    model = huggingface.load(source)
    dtype, dense_bytes = model.dtype, tensor_bytes(dict(model.named_parameters()))  # tied weights are counted once, as in the file
    model.float()  # computes in float32; the result has the folder's precision again
    configs = _configs(args, model)
    model.to(device)
    calibration, held_out = None, None
    if args.calibration:
        direction = Direction(args.task, args.source_lang, args.target_lang)
        calibration, held_out = huggingface.audio_calibration(
            model, source, args.calibration, args.calibration_batches, args.seed, args.correction_batches, direction
        )
    before = held_out and held_out.likelihood(model)
    compressed, probes = _compress_parts(args, model, configs, calibration, calibration and calibration.predict)
    huggingface.save(model.cpu(), args.output, source, dtype)
    sizes = {"model_bytes": tensor_bytes(dict(model.named_parameters())), "dense_model_bytes": dense_bytes}
    losses = {"dense": before, "compressed": held_out.likelihood(model.to(device).float())} if held_out else {}
    figures = {"output": args.output, "encoder_bytes": encoder_bytes(stack_of(model).whole)}
    if calibration:
        figures["calibrated_on"] = huggingface.directions_of(huggingface.languages_of(model, source), calibration.batches)
    return {**figures, **_figures(compressed), **sizes, **losses, **sizes_tried(probes)}


def _configs(args: argparse.Namespace, model) -> dict[str, CompressionConfig]:
    """Part -> the settings of `compress` for it. An impossible form is refused here, before calibration starts."""
    configs = {part: _config(args, part) for part in parts_of(args)}
    if args.weight_fraction is not None:
        configs = {part: replace(config, weight_fraction=args.weight_fraction) for part, config in configs.items()}
    if args.encoder_mbytes is not None:
        fraction = fraction_of_bytes(stack_of(model), args.encoder_mbytes)
        configs["encoder"] = replace(configs["encoder"], weight_fraction=fraction)
    for part, config in configs.items():
        plan_form(stack_of(model, part), config, calibrated=bool(args.calibration))
    return configs


def _compress_parts(
    args: argparse.Namespace, model, configs: dict[str, CompressionConfig], calibration, decode
) -> tuple[dict, list]:
    """Part -> the result of `compress`, and the sizes that were tried for --max-loss.

    Args:
        decode: function that runs the decoder's layers, as the calibration's `encode` runs the encoder's.
    """
    moments: dict[str, Moments] = {}
    if args.weight_fraction is not None:
        stacks = {part: stack_of(model, part) for part in configs}
        fractions, moments = fractions_of_parts(model, stacks, calibration, args.weight_fraction, args.diagonal)
        configs = {part: replace(config, weight_fraction=fractions[part]) for part, config in configs.items()}
        moments.pop("decoder")
    compressed = {}
    for part, config in configs.items():  # the decoder is calibrated on the output of the compressed encoder
        if calibration and part == "decoder":
            calibration = replace(calibration, encode=decode)
        compressed[part], probes = _compress(args, model, stack_of(model, part), config, calibration, moments.get(part))
    return compressed, probes


def _figures(compressed: dict) -> dict:
    return {name: value for part, outcome in compressed.items() for name, value in figures_of(part, outcome).items()}


def _compress(args: argparse.Namespace, model, stack, config: CompressionConfig, calibration, moments=None) -> tuple:
    """The result of `compress` for a part, and the sizes that were tried for --max-loss."""
    if args.max_loss is None:
        return compress(model, config, stack=stack, calibration=calibration, moments=moments), []
    return compress_within(model, args.max_loss, calibration, config, stack=stack)


def _config(args: argparse.Namespace, part: str) -> CompressionConfig:
    """The settings of `compress` for a part. The encoder's options have no prefix, except its size."""
    prefix = prefix_of(part)
    return CompressionConfig(
        group_size=getattr(args, f"{prefix}group_size"),
        pattern=getattr(args, f"{prefix}sharing_pattern") or "adjacent",
        rank=getattr(args, f"{prefix}residual_rank"),
        weight_fraction=getattr(args, f"{part}_weight_fraction"),
        diagonal=args.diagonal,
        refine_updates=args.refine_updates,
    )


def fraction_of_bytes(stack, megabytes: float) -> float:
    """The weight fraction at which a stack's encoder takes `megabytes` (10^6 bytes) in float32."""
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
