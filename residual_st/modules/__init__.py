"""The method itself: torch only, for any stack of layers that hold `nn.Linear`s."""

from residual_st.modules.attention import self_attention
from residual_st.modules.dropout import dropout, relu_dropout_
from residual_st.modules.residual_linear import ResidualLinear, linear_of, residual_energies
from residual_st.modules.residual_product import measure_products, median_seconds, transpose_storage_
from residual_st.modules.share_layers import (
    SharedWeights,
    alike_in_groups,
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
    "alike_in_groups",
    "check_alike",
    "check_ranks",
    "dropout",
    "linear_of",
    "matrices",
    "matrix_kind",
    "matrix_parameters",
    "measure_products",
    "median_seconds",
    "relu_dropout_",
    "residual_energies",
    "self_attention",
    "share_layers",
    "transpose_storage_",
]
