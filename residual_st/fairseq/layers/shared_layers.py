"""What is done with a stack whose layers share, in training from scratch and in translation."""

from collections.abc import Callable, Mapping

from torch import nn

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


def share_new_layers(layers: nn.ModuleList, form: SharedForm, ends_branch: Callable[[str], bool]) -> SharedWeights:
    """`share_layers` for training from scratch: the shared matrices that end a residual branch start at 0.

    So every layer at first passes on its input. What layers with one matrix add to the stream points the same way, so that it grows
    with their number, and not with its root as that of layers with matrices of their own does (docs/from_scratch.md; for dense
    networks Zhang et al., Fixup, arXiv 1901.09321).

    Args:
        ends_branch: whether a matrix of this name has its output added to the layer's input.
    """
    shared_weights = share_layers(layers, form)
    for layer in in_order(layers):
        for name, linear in matrices(layer):
            if ends_branch(name) and isinstance(linear, ResidualLinear):
                nn.init.zeros_(linear.up if linear.shared_weight is None else linear.shared_weight)
    return shared_weights


def use_faster_forward(layers: nn.ModuleList, faster: Mapping[type, type]) -> None:
    """Let layers that share call their matrices, in place: by a faster forward pass, where there is one for their class.

    fairseq's attention otherwise hands the weights to torch's fused function, for which each would be composed and kept.
    """
    for module in layers.modules():
        if hasattr(module, "skip_embed_dim_check"):
            module.skip_embed_dim_check = True
    for layer in in_order(layers):
        if type(layer) in faster:
            layer.__class__ = faster[type(layer)]


def take_inference_form_(owner: nn.Module, layers: nn.ModuleList) -> None:
    """Give layers that share the form for translation, for good, as `owner.inference_mode` says.

    With `fast` every weight is composed and its terms are let go.
    """
    if owner.inference_mode == "fast":
        for layer in in_order(layers):
            if hasattr(layer, "compose_"):
                layer.compose_()
        unshare_layers(layers)
        owner.shared_weights = nn.ModuleDict()
    transpose_storage_(layers)
    transpose_storage_(owner.shared_weights)
