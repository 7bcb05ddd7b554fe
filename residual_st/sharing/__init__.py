"""The method itself, for any stack of layers that contain `nn.Linear`s or pointwise convolutions. Needs torch only.

Names that need torch are imported at their first use, so that plans, ranks and forms work without it.
"""

import importlib
from typing import TYPE_CHECKING

from residual_st.sharing.form import SharedForm
from residual_st.sharing.plan import SharingPlan
from residual_st.sharing.ranks import Alone, ResidualRanks

if TYPE_CHECKING:  # the same table, for type checkers
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

_HOMES = {
    "LowRankConv1d": "pointwise",
    "LowRankLinear": "linear",
    "Matrix": "shareable",
    "ResidualConv1d": "pointwise",
    "ResidualLinear": "linear",
    "SharedWeights": "layers",
    "alike_in_groups": "layers",
    "channels_last": "pointwise",
    "check_alike": "shareable",
    "check_ranks": "shareable",
    "check_untied": "shareable",
    "deep_copy": "copying",
    "current_form": "layers",
    "form_of": "layers",
    "in_order": "shareable",
    "keep_whole": "shareable",
    "linear_of": "linear",
    "matrices": "shareable",
    "matrix_kind": "layers",
    "matrix_parameters": "layers",
    "residual_energies": "linear",
    "shape_of": "shareable",
    "share_layers": "layers",
    "transpose_storage_": "product",
    "tune_products": "tuning",
    "unshare_layers": "layers",
    "weight_of": "shareable",
}

__all__ = ["Alone", "ResidualRanks", "SharedForm", "SharingPlan", *_HOMES]  # noqa: PLE0604 - names, from the table


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
