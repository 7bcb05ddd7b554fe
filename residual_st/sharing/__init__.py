"""The method itself, for any stack of layers that contain `nn.Linear`s or pointwise convolutions. Needs torch only.

Names that need torch are imported at their first use, so that plans, ranks and forms work without it.
"""

import importlib
from typing import TYPE_CHECKING

from residual_st.sharing.form import SharedForm
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.ranks import Alone, ResidualRanks

if TYPE_CHECKING:  # what `__getattr__` imports
    from residual_st.sharing.copying import deep_copy
    from residual_st.sharing.layers import (
        SharedWeights,
        alike_in_groups,
        current_form,
        form_of,
        matrix_kind,
        matrix_parameters,
        share_layers,
        unshare_layers,
    )
    from residual_st.sharing.linear import LowRankLinear, ResidualLinear, linear_of, residual_energies
    from residual_st.sharing.pointwise import LowRankConv1d, ResidualConv1d, channels_last
    from residual_st.sharing.product import transpose_storage_
    from residual_st.sharing.shareable import (
        Matrix,
        check_alike,
        check_ranks,
        check_untied,
        in_order,
        keep_whole,
        matrices,
        shape_of,
        weight_of,
    )
    from residual_st.sharing.tuning import tune_products

_NEED_TORCH = ("copying", "layers", "linear", "pointwise", "product", "shareable", "tuning")

__all__ = [
    "Alone",
    "LowRankConv1d",
    "LowRankLinear",
    "Matrix",
    "ResidualConv1d",
    "ResidualLinear",
    "ResidualRanks",
    "SharedForm",
    "SharedWeights",
    "SharingPlan",
    "alike_in_groups",
    "channels_last",
    "check_alike",
    "check_ranks",
    "check_untied",
    "current_form",
    "deep_copy",
    "form_of",
    "in_order",
    "keep_whole",
    "linear_of",
    "matrices",
    "matrix_kind",
    "matrix_parameters",
    "residual_energies",
    "shape_of",
    "share_layers",
    "transpose_storage_",
    "tune_products",
    "unshare_layers",
    "weight_of",
]


def __getattr__(name: str) -> object:
    for module in _NEED_TORCH if name in __all__ else ():
        members = vars(importlib.import_module(f"{__name__}.{module}"))
        if name in members:
            return members[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
