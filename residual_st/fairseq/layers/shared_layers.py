"""Initialisation and inference form of stacks with shared layers."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from residual_st.fairseq.layers.layer import ResidualTransformerLayer
from residual_st.sharing import (
    ResidualLinear,
    SharedForm,
    SharedWeights,
    in_order,
    matrices,
    share_layers,
    transpose_storage_,
    unshare_layers,
)


def share_new_layers(layers: nn.ModuleList, form: SharedForm, is_output_projection: Callable[[str], bool]) -> SharedWeights:
    """`share_layers` for training from scratch: shared output projections (`out_proj`, `fc2`) are initialised to 0.

    So every layer passes on its input at first. Otherwise the outputs of layers with the same matrices point in the same direction,
    and their sum grows with the number of layers, not with its square root as in dense layers (docs/from_scratch.md; for dense
    networks Zhang et al., Fixup, arXiv 1901.09321).

    Args:
        is_output_projection: function (name of a matrix) -> whether it is an output projection.
    """
    shared_weights = share_layers(layers, form)
    for layer in in_order(layers):
        for name, linear in matrices(layer):
            if is_output_projection(name) and isinstance(linear, ResidualLinear):
                weight = linear.up if linear.shared_weight is None else linear.shared_weight
                if weight is not None:
                    nn.init.zeros_(weight)
    return shared_weights


def use_faster_forward(layers: nn.ModuleList, faster: Mapping[type, type]) -> None:
    """Make shared layers call their matrices, in place, with a faster forward pass if their class has one.

    Otherwise fairseq's attention passes the weights to torch's fused function, so that each would be composed and stored.
    """
    attentions: list[Any] = [module for module in layers.modules() if hasattr(module, "skip_embed_dim_check")]
    for attention in attentions:
        attention.skip_embed_dim_check = True
    for layer in in_order(layers):
        if type(layer) in faster:
            layer.__class__ = faster[type(layer)]


def take_inference_form_(owner: Any, layers: nn.ModuleList) -> None:
    """Convert shared layers permanently to the form for translation given by `owner.inference_mode`.

    With `fast` every weight is composed and its terms are dropped.
    """
    if owner.inference_mode == "fast":
        for layer in in_order(layers):
            if isinstance(layer, ResidualTransformerLayer):
                layer.compose_()
        unshare_layers(layers)
        owner.shared_weights = nn.ModuleDict()
    transpose_storage_(layers)
    transpose_storage_(owner.shared_weights)
