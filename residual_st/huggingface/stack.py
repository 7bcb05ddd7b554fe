"""Parts of Hugging Face's speech models, once their layers share.

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

FORM = "residual_st"  # in the config: part -> arguments of `form_of`


def describe_sharing(config: transformers.PretrainedConfig, part: str, owner: nn.Module, form: SharedForm) -> None:
    """Make the owner of a part's layers, which share in this form, say so in its state dict, and the model's config."""
    values = (form.to_flags("")[name] for name in flag_names(""))
    described = dict(zip(("group_size", "pattern", "rank", "diagonal"), values))
    setattr(config, FORM, {**getattr(config, FORM, {}), part: described})
    refuse_all_linear()
    owner.register_state_dict_post_hook(_mark)
    owner.register_load_state_dict_pre_hook(_drop_marks)


def _composed_weights(owner: nn.Module, prefix: str) -> list[str]:
    return [f"{prefix}{name}.weight" for name, module in owner.named_modules() if isinstance(module, ResidualLinear)]


def _mark(owner: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    state.update({name: torch.zeros(1, dtype=torch.uint8) for name in _composed_weights(owner, prefix)})


def _drop_marks(owner: nn.Module, state: dict, prefix: str, *_rest) -> None:
    for name in _composed_weights(owner, prefix):
        if name in state and state[name].dtype == torch.uint8:
            del state[name]
