"""The method itself: torch only, for any stack of layers that hold `nn.Linear`s."""

from residual_st.modules.residual_linear import ResidualLinear
from residual_st.modules.share_layers import (
    SharedWeights,
    check_alike,
    check_ranks,
    matrices,
    matrix_kind,
    matrix_parameters,
    share_layers,
)

__all__ = [
    "ResidualLinear",
    "SharedWeights",
    "check_alike",
    "check_ranks",
    "matrices",
    "matrix_kind",
    "matrix_parameters",
    "share_layers",
]
