"""Show the size of a checkpoint, a Hugging Face folder or an architecture, and which layers share their matrices."""

import argparse
import json
import os

from tabulate import tabulate

from residual_st.cli.arguments import add_user_dir_argument
from residual_st.errors import InputError, refusing

_ENERGY = "the squared norm of A B + diag(d) over that of U: near 0, a layer hardly differs from its group"
TAKES_REST = True  # the checkpoint, or flags for the architecture's own parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "residual-st inspect [--json] [--user-dir OTHER] (CHECKPOINT | FOLDER | --arch NAME [model flags])"
    parser.add_argument(
        "--arch",
        metavar="NAME",
        help="architecture instead of a checkpoint; its model flags may follow, such as --encoder-layers 6",
    )
    parser.add_argument("--vocab-size", type=int, default=8000, metavar="N", help="vocabulary size for --arch (default: 8000)")
    add_user_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    if args.arch:
        figures = _of_architecture(args)
    elif len(args.rest) != 1:
        raise InputError("give one checkpoint, one folder, or --arch NAME with model flags")
    else:
        figures = (_of_folder if os.path.isdir(args.rest[0]) else _of_checkpoint)(args.rest[0])
    print(json.dumps(figures, indent=2) if args.json else format_tables(figures))
    return 0


def _of_architecture(args: argparse.Namespace) -> dict:
    from residual_st.fairseq.description import describe
    from residual_st.fairseq.standalone import build_model, parse_model_flags

    flags = parse_model_flags(args.arch, args.rest)
    with refusing(f"a model of --arch {args.arch} cannot be built without its task"):
        model = build_model(flags, args.vocab_size, "meta")
    return describe(model, flags)


def _of_checkpoint(path: str) -> dict:
    from residual_st.fairseq.checkpoints import model_flags
    from residual_st.fairseq.description import describe
    from residual_st.fairseq.kinds import stacks_of
    from residual_st.fairseq.standalone import load_model
    from residual_st.stacks.figures import residual_energy

    state, model = load_model(path, as_stored=True)
    figures = describe(model, model_flags(state, path))
    return {**figures, "checkpoint_bytes": os.path.getsize(path), "residual_energy": residual_energy(stacks_of(model))}


def _of_folder(folder: str) -> dict:
    """The figures of a Hugging Face model."""
    from residual_st.huggingface import load
    from residual_st.huggingface.figures import describe

    return describe(load(folder))


def format_tables(figures: dict) -> str:
    parts = [(name, part["parameters"], part["bytes"]) for name, part in figures["parts"].items()]
    parts.append(("total", figures["total_parameters"], sum(part[2] for part in parts)))
    sizes = [(name, parameters, size / 1e6, parameters / 1e6) for name, parameters, size in parts]  # int8: a byte per weight
    scalars = [(name, value) for name, value in figures.items() if not isinstance(value, (dict, list))]
    scalars += [(name, " ".join(map(str, figures[name]))) for name in ("groups", "decoder_groups") if name in figures]
    tables = [
        tabulate(scalars, tablefmt="plain"),
        tabulate(sizes, ["part", "parameters", "MB", "about MB in int8"], intfmt=",", floatfmt=".1f"),
    ]
    for part in ("encoder", "decoder"):
        energies = [row for row in figures.get("residual_energy", ()) if _part_of(row["matrix"]) == part]
        if not energies:
            continue
        names = list(dict.fromkeys(row["matrix"] for row in energies))
        by_layer: dict[int, dict[str, float]] = {}
        for row in energies:
            by_layer.setdefault(row["layer"], {})[row["matrix"]] = row["residual_to_shared"]
        rows = [[layer, *(values.get(name) for name in names)] for layer, values in by_layer.items()]
        tables.append(f"residual / shared energy, {part} ({_ENERGY})\n" + tabulate(rows, ["layer", *names], floatfmt=".4f"))
    return "\n\n".join(tables)


def _part_of(matrix: str) -> str:
    """`decoder` for the matrices that are named by their part, `encoder` for the others."""
    return "decoder" if matrix.startswith("decoder.") else "encoder"
