"""The figures and tables that `residual-st compress` prints."""

import argparse

from tabulate import tabulate

BYTES = 4  # of a float32 weight


def parts_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The parts to compress: the decoder only if an option for it or for the whole model is given."""
    options = (args.decoder_group_size, args.decoder_sharing_pattern, args.decoder_residual_rank, args.decoder_weight_fraction)
    return (
        ("encoder", "decoder")
        if args.weight_fraction is not None or any(option is not None for option in options)
        else ("encoder",)
    )


def prefix_of(part: str) -> str:
    return "" if part == "encoder" else f"{part}_"


def figures_of(part: str, compressed) -> dict:
    prefix = prefix_of(part)
    return {
        f"{prefix}sharing_pattern": str(compressed.form.plan),
        f"{prefix}residual_rank": str(compressed.form.ranks),
        f"{prefix}residual_diagonal": compressed.form.diagonal,
        f"{part}_weight_fraction": round(compressed.parameters_after / compressed.parameters_before, 4),
        f"{part}_matrix_parameters": compressed.parameters_after,
        f"dense_{part}_matrix_parameters": compressed.parameters_before,
        f"{prefix}relative_errors": [{name: round(error, 4) for name, error in row.items()} for row in compressed.errors],
    }


def encoder_bytes(encoder) -> int:
    return BYTES * sum(parameter.numel() for parameter in encoder.parameters())


def tensor_bytes(weights: dict) -> int:
    return sum(value.numel() * value.element_size() for value in weights.values())


def sizes_tried(probes: list) -> dict:
    return {"sizes_tried": [vars(probe) for probe in probes]} if probes else {}


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
        tabulate(sizes, ["size", "dense", "compressed"], intfmt=","),
    ]
    if figures.get("calibrated_on"):
        directions = tabulate(figures["calibrated_on"], {"source_lang": "spoken", "task": "task", "target_lang": "into"})
        tables.append(f"calibrated on\n{directions}")
    if "dense" in figures:
        where = "held-out audio" if "calibrated_on" in figures else "the validation subset"
        losses = [[f"{name} on {where}", value, figures["compressed"][name]] for name, value in figures["dense"].items()]
        tables.append(tabulate(losses, ["per token, base 2", "dense", "compressed"], floatfmt=".3f"))
    if "sizes_tried" in figures:
        tried = [[f"{probe['weight_fraction']:.1%}", f"{probe['loss_ratio'] - 1:+.1%}"] for probe in figures["sizes_tried"]]
        tables.append(tabulate(tried, ["encoder weights tried", "loss on held-out batches"], disable_numparse=True))
    return "\n\n".join([*tables, f"wrote {figures['output']}"])


_ERROR_TABLES = {"relative error": "relative_errors", "relative error, decoder": "decoder_relative_errors"}


def _error_table(title: str, errors: list[dict[str, float]]) -> str:
    rows = [[layer, *row.values()] for layer, row in enumerate(errors)]
    return f"{title}\n" + tabulate(rows, ["layer", *errors[0]], floatfmt=".3f")
