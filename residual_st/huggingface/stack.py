"""Encoders of Hugging Face's speech models, once their layers share.

transformers' own `save_pretrained` writes shared ones, so the model itself carries what its folder must say: the form stands in its
config, and a mark in its state dict takes the place of each composed weight. Without the marks an ordinary `from_pretrained` would
find no weights there, draw random ones and go on; a mark has another shape than the weight, which it refuses.
"""

import torch
import transformers
from torch import nn

from residual_st.compat import refuse_all_linear
from residual_st.sharing import ResidualLinear, SharedForm
from residual_st.sharing.form import flag_names

FORM = "residual_st"  # in the config: arguments of `form_of`


def describe_sharing(config: transformers.PretrainedConfig, encoder: nn.Module, form: SharedForm) -> None:
    """Make the owner of layers, which share in this form, say so in its state dict, and the model's config."""
    values = (form.to_flags("")[name] for name in flag_names(""))
    setattr(config, FORM, dict(zip(("group_size", "pattern", "rank", "diagonal"), values)))
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
