"""The cost of exported models on a device: dense and residual, fp32, int8 and int4, in the sizes of `s2t_transformer_s` and `_m`.

    python benchmarks/device.py [--repeats N] [--sizes s m] [--threads 1 2] [--precisions fp32 …]

The models have random weights, which change neither size nor time. The residual models of FORMS and the dense one compute the same
function. Three more systems keep a third of the encoder's matrix weights: with one shared matrix, with none, and with a third of
the layers. Decoders are dense, except in two systems with shared decoders. Rows go to results/device.jsonl;
cases that have rows of this machine and commit are skipped. No other program may run.
"""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from residual_st.benchmark import results
from residual_st.benchmark.device import measure
from residual_st.benchmark.systems import VOCABULARY, Shape, build_pair, build_residual
from residual_st.export import PRECISIONS
from residual_st.export.fairseq_model import describe_vocabulary, export_model
from residual_st.fairseq.model_input import ModelInput
from residual_st.fairseq.standalone import build_model
from residual_st.languages import Languages
from residual_st.progress import show_progress
from residual_st.sharing import matrices

RESULTS = Path(__file__).parent / "results" / "device.jsonl"
SPEECH = Path(__file__).parents[1] / "tests" / "speech" / "arctic_a0007.wav"
WIDTHS = {"s": 256, "m": 512}
FORMS = {"K=3, R=16": (3, 16), "K=12, R=8": (12, 8), "K=12, R=16": (12, 16)}
SHARED_DECODERS = {"K=3, R=16, decoder K=3": (3, 3), "K=12, R=16, decoder K=6": (12, 6)}  # also with R=16
LAYERS = 12
SECONDS = (0.5, 1, 5, 20)


def models(width: int):
    """(system, model, flags)"""
    for name, (group_size, rank) in FORMS.items():
        shape = Shape(width, LAYERS, group_size, rank)
        torch.manual_seed(1)
        stock, residual = build_pair(shape)
        if name == next(iter(FORMS)):
            yield "dense", stock, shape.flags("stock")
        yield name, residual, shape.flags("compact")
    for name, (group_size, decoder_group_size) in SHARED_DECODERS.items():
        shape = Shape(width, LAYERS, group_size, 16, decoder_group_size=decoder_group_size)
        yield name, build_residual(shape), shape.flags("compact")
    yield from thirds(width)


def thirds(width: int):
    """(system, model, flags) of three systems that keep a third of the encoder's matrix weights."""
    four_layers = Shape(width, LAYERS // 3, 1, 0)
    dense = build_model(four_layers.flags("stock"))
    yield "4 layers", dense, four_layers.flags("stock")
    matrices_of_layer = [matrix for _, matrix in matrices(dense.encoder.transformer_layers[0])]
    weights = sum(matrix.weight.numel() for matrix in matrices_of_layer)
    weights_of_rank = sum(sum(matrix.weight.shape) for matrix in matrices_of_layer)
    for name, group_size, shared in (("K=12", 12, 1 / 12), ("no shared matrix", 1, 0)):
        rank = round((1 / 3 - shared) * weights / weights_of_rank)
        shape = Shape(width, LAYERS, group_size, rank if shared else f"={rank}")
        yield f"{name}, R={rank}", build_residual(shape), shape.flags("compact")


def folders(width: int, work: Path, precisions: Sequence[str] = ("fp32", "int8")) -> dict[str, Path]:
    """System and precision -> exported folder. The dense model in fp32 is always first."""
    vocabulary = describe_vocabulary([str(index) for index in range(VOCABULARY)], "words", Languages())
    made = {}
    for name, model, flags in models(width):
        for precision in PRECISIONS:
            if precision not in precisions and (name, precision) != ("dense", "fp32"):
                continue
            folder = work / f"{width}-{len(made)}"
            folder.mkdir(parents=True)
            export_model(model.eval(), flags, ModelInput(), vocabulary, Languages(), folder, precision, [SPEECH])
            made[f"{name}, {precision}"] = folder
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    logging.disable(logging.INFO)
    show_progress()
    source = {**results.provenance(), "machine": results.cpu_name()}
    for size in args.sizes:
        case = {"benchmark": "device", "size": size, "seed": 1}
        for threads in args.threads:
            row_key = {**case, "threads": threads, **source}
            known = {row["precision"] for row in results.read(args.output) if row.items() >= row_key.items()}
            if known.issuperset(args.precisions):
                continue
            with tempfile.TemporaryDirectory() as work:
                rows = measure(folders(WIDTHS[size], Path(work), args.precisions), threads, list(SECONDS), args.repeats, None)
            for row in rows:
                results.append(args.output, {**case, **row, "repeats": args.repeats, **source})


if __name__ == "__main__":
    main()
