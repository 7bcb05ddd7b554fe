"""Time of a calibrated fit at real sizes: `residual-st compress --calibration` without reading data or running the model.

    python benchmarks/fit_time.py [--layers 12] [--width 512] [--group-size 3] [--rank 2]

The layers are those of an initialised fairseq encoder, with moments whose spectra fall as in trained models (by a factor of 1,000
over the first half of the directions). A row has the seconds on all cores and the sum of squared relative errors.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from residual_st.benchmark.results import append, provenance
from residual_st.compression import CompressionConfig, compress
from residual_st.compression.sums import MatrixMoments
from residual_st.fairseq.standalone import build_model, parse_model_flags
from residual_st.sharing import matrices

RESULTS = Path(__file__).parent / "results" / "fit_time.jsonl"
POSITIONS = 100_000
VOCABULARY = 8000


def draw_inputs(size: int, generator: torch.Generator) -> Tensor:
    """A matrix (size, size) whose singular values fall, in a random basis."""
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    spectrum = torch.logspace(0, -6, size, dtype=torch.float64).clamp_min(1e-3)
    return ((POSITIONS * spectrum).sqrt()[:, None] * basis.T).float()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    for name, default in (("layers", 12), ("width", 512), ("group-size", 3), ("rank", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(1)
    sizes = ["--encoder-layers", args.layers, "--encoder-embed-dim", args.width, "--encoder-ffn-embed-dim", 4 * args.width]
    model = build_model(parse_model_flags("s2t_transformer_m", list(map(str, sizes))), VOCABULARY)
    generator = torch.Generator().manual_seed(1)
    moments = []
    for layer in model.encoder.transformer_layers:
        by_matrix = {}
        for name, linear in matrices(layer):
            by_matrix[name] = MatrixMoments(linear)
            by_matrix[name].inputs.count = POSITIONS
            by_matrix[name].inputs.squares.add(draw_inputs(linear.in_features, generator))
            by_matrix[name].add_gradients(draw_inputs(linear.out_features, generator))
        moments.append(by_matrix)
    start = time.perf_counter()
    compressed = compress(model, CompressionConfig(group_size=args.group_size, rank=args.rank), moments=moments)
    seconds = time.perf_counter() - start
    error = sum(error**2 for row in compressed.errors for error in row.values())
    figures = {"seconds": round(seconds, 1), "squared_error": round(error, 5)}
    print(figures)
    append(RESULTS, {"benchmark": "fit_time", "system": "calibrated", "seed": 1, **vars(args), **figures, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
