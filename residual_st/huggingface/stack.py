"""Encoders of Hugging Face's speech models: Whisper and Speech2Text.

transformers' own `save_pretrained` writes shared ones, so the model itself carries what its folder must say: the form stands in its
config, and a mark in its state dict takes the place of each composed weight. Without the marks an ordinary `from_pretrained` would
find no weights there, draw random ones and go on; a mark has another shape than the weight, which it refuses.
"""

import torch
from torch import nn

from residual_st.compat import refuse_all_linear
from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, SharedForm
from residual_st.sharing.form import flag_names
from residual_st.stacks import LayerStack, describe_stack
from residual_st.stacks.padding import padding_by_name
from residual_st.stacks.symmetries import symmetries_of

FORM = "residual_st"  # in the config: arguments of `form_of`
_LAYERS = ("WhisperEncoderLayer", "Speech2TextEncoderLayer")


def stack_of(model: nn.Module, part: str = "encoder") -> LayerStack:
    """The encoder's stack of a whole model, with or without its head, or of the encoder itself.

    Raises:
        InputError: for a model of another kind, and for its decoder.
    """
    for encoder in (getattr(getattr(model, "model", model), "encoder", None), model) if part == "encoder" else ():
        layers = getattr(encoder, "layers", None)
        if isinstance(layers, nn.ModuleList) and len(layers) and type(layers[0]).__name__ in _LAYERS:
            return _described(layers, encoder)
    raise InputError(f"{type(model).__name__} has no stack of {part} layers that is known here; describe it by a LayerStack")


def stack_of_layers(layers: nn.ModuleList) -> LayerStack:
    """A plain list of layers, whose units may be renamed where their class is known."""
    return _described(layers, None) if type(layers[0]).__name__ in _LAYERS else describe_stack(layers)


def _described(layers: nn.ModuleList, encoder: nn.Module | None) -> LayerStack:
    return LayerStack(
        layers,
        encoder,
        symmetries=symmetries_of(layers[0], ["self_attn"], layers[0].activation_fn),
        padding=padding_by_name(layers[0]),
        on_sharing=describe_sharing,
    )


def describe_sharing(encoder: nn.Module, form: SharedForm) -> None:
    """Make an encoder, whose layers share in this form, say so in its config and state dict."""
    values = (form.to_flags("")[name] for name in flag_names(""))
    setattr(encoder.config, FORM, dict(zip(("group_size", "pattern", "rank", "diagonal"), values)))
    refuse_all_linear()
    encoder.register_state_dict_post_hook(_mark)
    encoder.register_load_state_dict_pre_hook(_drop_marks)


def _composed_weights(encoder: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}{name}.weight" for name, module in encoder.named_modules() if isinstance(module, ResidualLinear)]


def _mark(encoder: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    state.update({name: torch.zeros(1, dtype=torch.uint8) for name in _composed_weights(encoder, prefix)})


def _drop_marks(encoder: nn.Module, state: dict, prefix: str, *_rest) -> None:
    for name in _composed_weights(encoder, prefix):
        if name in state and state[name].dtype == torch.uint8:
            del state[name]
