"""The encoder whose hidden states are compared with a teacher's."""

from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from torch import nn

from residual_st.errors import InputError
from residual_st.stacks import LayerStack, fairseq_encoder


def find_encoder(model: nn.Module) -> S2TTransformerEncoder:
    """The encoder of a speech-to-text model, which may be wrapped for distributed training. Raises InputError without one."""
    encoder = next((module for module in model.modules() if isinstance(module, S2TTransformerEncoder)), None)
    if encoder is None:
        raise InputError("--distill-encoder-weight needs an s2t_transformer of any size, dense or residual")
    return encoder


def encoder_stack(model: nn.Module) -> LayerStack:
    """The layers of `find_encoder`'s encoder."""
    return fairseq_encoder.of_layers(find_encoder(model).transformer_layers)
