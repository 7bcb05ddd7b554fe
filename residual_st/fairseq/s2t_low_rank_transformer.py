"""The baseline of equal size: an encoder whose matrices are each a product of two thin ones, and share nothing."""

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from residual_st.compat import drop_fused_copies
from residual_st.errors import InputError
from residual_st.fairseq.layers.shared_layers import LAST_OF_A_BRANCH
from residual_st.sharing import matrices


class LowRank(nn.Module):
    """`W = A B + diag(d)` for `parametrize`: A (out, rank), B (rank, in), d (the shorter side)."""

    def __init__(self, rank: int):
        super().__init__()
        self.rank = rank

    def forward(self, up: Tensor, down: Tensor, diagonal: Tensor) -> Tensor:
        weight = up @ down
        weight.diagonal().add_(diagonal)
        return weight

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best factors of a weight; its diagonal is left to training."""
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        root = values[: self.rank].sqrt()
        return left[:, : self.rank] * root, root[:, None] * right[: self.rank], weight.new_zeros(min(weight.shape))


@register_model("s2t_low_rank_transformer")
class S2TLowRankTransformerModel(S2TTransformerModel):
    """`s2t_transformer` with `W = A B + diag(d)` in every matrix of the encoder's layers and no shared weight.

    What the residual encoder must be better than at equal size (`residual-st benchmark quality`). It begins as that does, with
    `out_proj` and `fc2` at 0.
    """

    @classmethod
    def hub_models(cls):
        return {}

    @staticmethod
    def add_args(parser):
        S2TTransformerModel.add_args(parser)
        parser.add_argument(
            "--encoder-weight-fraction",
            type=float,
            metavar="F",
            help="kept matrix weights over those of the dense encoder; chooses the rank of each matrix (default: 0.345)",
        )

    @classmethod
    def build_encoder(cls, args):
        encoder = super().build_encoder(args)
        drop_fused_copies(encoder.transformer_layers)
        for layer in encoder.transformer_layers:
            for name, linear in list(matrices(layer)):
                rank = rank_of(linear.weight.shape, args.encoder_weight_fraction)
                parametrize.register_parametrization(linear, "weight", LowRank(rank))
                if name in LAST_OF_A_BRANCH:
                    nn.init.zeros_(linear.parametrizations.weight.original0)
        return encoder


def rank_of(shape: tuple[int, int], fraction: float) -> int:
    """The largest rank at which two factors and a diagonal are at most that fraction of a matrix. InputError if there is none."""
    rank = int((fraction * shape[0] * shape[1] - min(shape)) / sum(shape))
    if rank < 1:
        raise InputError(f"--encoder-weight-fraction {fraction:g} leaves no rank for a matrix of {shape[0]} by {shape[1]}")
    return min(rank, *shape)


def _register(suffix: str) -> None:
    @register_model_architecture("s2t_low_rank_transformer", f"s2t_low_rank_transformer{suffix}")
    def architecture(args):
        args.encoder_weight_fraction = getattr(args, "encoder_weight_fraction", 0.345)
        ARCH_CONFIG_REGISTRY[f"s2t_transformer{suffix}"](args)


for _suffix in ("", "_xs", "_s", "_m"):
    _register(_suffix)
