"""Encoders of Hugging Face's speech models: Whisper and Speech2Text."""

import torch
from torch import Tensor, nn

from residual_st.stacks.layer_stack import LayerStack
from residual_st.stacks.symmetries import symmetries_of

_LAYERS = ("WhisperEncoderLayer", "Speech2TextEncoderLayer")


def find(model: nn.Module) -> LayerStack | None:
    """The encoder's stack of a whole model, with or without its head, or of the encoder itself."""
    for encoder in (getattr(getattr(model, "model", model), "encoder", None), model):
        layers = getattr(encoder, "layers", None)
        if isinstance(layers, nn.ModuleList) and len(layers) and type(layers[0]).__name__ in _LAYERS:
            return LayerStack(
                layers,
                encoder,
                symmetries=symmetries_of(layers[0], ["self_attn"], layers[0].activation_fn),
                batch_first=True,
                padding=_padding,
            )
    return None


def _padding(arguments: tuple, keywords: dict) -> Tensor | None:
    """Of masks (batch, time) that are 1 for what is there, and (batch, 1, time, time), boolean or to be added to the scores."""
    mask = keywords.get("attention_mask", arguments[1] if len(arguments) > 1 else None)
    if mask is None:
        return None
    if mask.dim() == 4:
        mask = mask[:, 0, 0]  # what the first position, which is there, attends to
        return ~mask if mask.dtype == torch.bool else mask < 0
    return mask == 0
