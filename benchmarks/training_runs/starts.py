"""Models that training or judging starts from and that are no part of the product: fewer layers, and low rank without sharing.

python benchmarks/training_runs/starts.py keep-layers DENSE.pt OUTPUT.pt 0 3 6 9
python benchmarks/training_runs/starts.py low-rank DENSE.pt OUTPUT.pt 0.345 DATA
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from residual_st.compression.layer_weights import Metric, read_layer
from residual_st.compression.low_rank import best_diagonal, low_rank
from residual_st.compression.moments import gather
from residual_st.fairseq.checkpoints import model_flags, save_checkpoint
from residual_st.fairseq.conversion import dense_checkpoint, read_model, rewritten
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel
from residual_st.fairseq.standalone import build_model
from residual_st.fairseq.training_data import TrainingData
from residual_st.sharing import matrices
from residual_st.stacks import stack_of

_ROUNDS = 5
_CALIBRATION_BATCHES = 30


def _stock(state: dict, dense: nn.Module) -> dict:
    """The checkpoint of a dense model under its stock name, without flags of sharing, which would have to fit the outcome."""
    return dense_checkpoint(state, dense) if isinstance(dense, S2TResidualTransformerModel) else state


def keep_layers(state: dict, model: nn.Module, kept: list[int]) -> dict:
    """The checkpoint with these encoder layers only, in this order; with none the subsampler's output goes to the decoder."""
    state = _stock(state, model)
    model.encoder.transformer_layers = nn.ModuleList([model.encoder.transformer_layers[index] for index in kept])

    def fewer(flags: argparse.Namespace) -> None:
        flags.encoder_layers = len(kept)

    return rewritten(state, model, fewer)


def without_sharing(state: dict, dense: nn.Module, fraction: float, data: TrainingData) -> dict:
    """Each matrix by itself as `A B + diag(d)` of that size, closest in the metric that `residual-st compress` minimises."""
    state = _stock(state, dense)
    moments = gather(dense, stack_of(dense), data.calibration(_CALIBRATION_BATCHES, seed=1))

    def to_low_rank(flags: argparse.Namespace) -> None:
        flags.arch = flags.arch.replace("s2t_", "s2t_low_rank_", 1)
        flags.encoder_weight_fraction = fraction

    flags = copy.deepcopy(model_flags(state, "the model"))
    to_low_rank(flags)
    model = build_model(flags)
    keys = nn.Module.load_state_dict(model, dense.state_dict(), strict=False)
    assert all("parametrizations" in key for key in keys.missing_keys)
    layers = zip(dense.encoder.transformer_layers, model.encoder.transformer_layers, moments)
    with torch.no_grad():
        for dense_layer, low_rank_layer, layer_moments in layers:
            weights = read_layer(dense_layer)
            for name, linear in matrices(low_rank_layer):
                weight, metric = weights[name].weight, layer_moments[name].metric()
                factors = linear.parametrizations.weight
                up, down, diagonal = _fit(weight, metric, factors[0].rank)
                for target, value in zip((factors.original0, factors.original1, factors.original2), (up, down, diagonal)):
                    target.copy_(value)
                error = weight - up @ down
                error.diagonal().sub_(diagonal)
                linear.bias.copy_(weights[name].bias + error @ layer_moments[name].input_mean)
    return rewritten(state, model, to_low_rank)


def _fit(weight: Tensor, metric: Metric, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """`A`, `B` and `d`: factors and diagonal by turns."""
    diagonal = weight.new_zeros(min(weight.shape))
    for _ in range(_ROUNDS):
        rest = weight.clone()
        rest.diagonal().sub_(diagonal)
        up, down = low_rank(rest, metric, rank)
        diagonal = best_diagonal(weight - up @ down, metric)
    return up, down, diagonal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("keep-layers", "low-rank"):
        added = kinds.add_parser(kind)
        added.add_argument("checkpoint", type=Path)
        added.add_argument("output", type=Path)
        if kind == "keep-layers":
            added.add_argument("layers", type=int, nargs="*")
        else:
            added.add_argument("fraction", type=float)
            added.add_argument("data", type=Path)
    args = parser.parse_args()
    state, model = read_model(args.checkpoint, residual=False)
    if args.kind == "keep-layers":
        result = keep_layers(state, model, args.layers)
    else:
        result = without_sharing(state, model, args.fraction, TrainingData(state, args.data))
    save_checkpoint(result, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
