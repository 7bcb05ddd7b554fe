"""A plain list of layers."""

from torch import nn

from residual_st.stacks import fairseq_decoder, fairseq_encoder
from residual_st.stacks.generic import describe_stack
from residual_st.stacks.layer_stack import LayerStack


def find(model: nn.Module) -> LayerStack | None:
    if not isinstance(model, nn.ModuleList):
        return None
    for kind in (fairseq_encoder, fairseq_decoder):
        if len(model) and kind.is_layer(model[0]):
            return kind.of_layers(model)
    return describe_stack(model)
