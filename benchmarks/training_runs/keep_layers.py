"""Remove layers of a trained dense model, which shows how much it depends on them.

python benchmarks/training_runs/keep_layers.py DENSE.pt OUTPUT.pt 0 3 6 9
"""

import argparse
import sys
from pathlib import Path

from torch import nn

from residual_st.fairseq.checkpoints import save_checkpoint
from residual_st.fairseq.conversion import dense_checkpoint, read_model, rewritten
from residual_st.fairseq.s2t_residual_transformer import S2TResidualTransformerModel


def keep_layers(state: dict, model: nn.Module, kept: list[int]) -> dict:
    """The checkpoint with only these encoder layers, in this order. Without layers, the decoder reads the subsampler's output."""
    if isinstance(model, S2TResidualTransformerModel):  # with the stock arch, without the flags of sharing
        state = dense_checkpoint(state, model)
    model.encoder.transformer_layers = nn.ModuleList([model.encoder.transformer_layers[index] for index in kept])

    def fewer(flags: argparse.Namespace) -> None:
        flags.encoder_layers = len(kept)

    return rewritten(state, model, fewer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("layers", type=int, nargs="*")
    args = parser.parse_args()
    state, model = read_model(args.checkpoint, residual=False)
    save_checkpoint(keep_layers(state, model, args.layers), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
