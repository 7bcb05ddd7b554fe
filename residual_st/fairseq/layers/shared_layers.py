"""What the encoder and the decoder do with their shared layers."""

from torch import nn

from residual_st.sharing import (
    ResidualLinear,
    SharedForm,
    SharedWeights,
    matrices,
    share_layers,
    transpose_storage_,
)

INFERENCE_MODES = ("compact", "fast")

LAST_OF_A_BRANCH = ("self_attn.out_proj", "encoder_attn.out_proj", "fc2")  # whose output is added to the layer's input


def layers_of(part: nn.Module) -> nn.ModuleList:
    """The layers of a fairseq encoder or decoder."""
    return part.transformer_layers if hasattr(part, "transformer_layers") else part.layers


def share_new_layers(layers: nn.ModuleList, form: SharedForm) -> SharedWeights:
    """`share_layers` for training from scratch: the shared matrices that end a residual branch start at 0.

    So every layer at first passes on its input. What layers with one matrix add to the stream points the same way, so that it grows
    with their number, and not with its root as that of layers with matrices of their own does (docs/from_scratch.md; for dense
    networks Zhang et al., Fixup, arXiv 1901.09321).
    """
    shared_weights = share_layers(layers, form)
    for layer in layers:
        for name, linear in matrices(layer):
            if name in LAST_OF_A_BRANCH and isinstance(linear, ResidualLinear):
                nn.init.zeros_(linear.up if linear.shared_weight is None else linear.shared_weight)
    return shared_weights


def take_inference_form_(part: nn.Module) -> None:
    """Give an encoder or decoder the form for translation, for good, as `part.inference_mode` says.

    With `fast` every weight is composed and its terms are let go. Layers that share nothing stay as they are.
    """
    if not len(part.shared_weights):
        return
    layers = layers_of(part)
    if part.inference_mode == "fast":
        for layer in layers:
            layer.compose_()
        part.shared_weights = nn.ModuleDict()
    transpose_storage_(layers)
    transpose_storage_(part.shared_weights)
