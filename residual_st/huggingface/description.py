"""Description of shared layers in a model's files: the form of each part in its config, and marks in its state dict.

transformers' own `save_pretrained` writes both, so every folder describes itself. `quantization_config` in `config.json` is where
transformers looks for a special storage format of weights. With `residual_st.huggingface` imported, it has that of shared layers
(residual_st/huggingface/quantizer.py). Without it, transformers warns about an unknown method and loads a dense model: it would
find no weights for the shared matrices and initialise them at random. So the file has a mark in place of each composed weight. A
mark has a different shape from the weight, so that an ordinary `from_pretrained` fails.
"""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from residual_st.compat import refuse_all_linear
from residual_st.sharing import ResidualLinear, SharedForm
from residual_st.sharing.form import flag_names

METHOD = "residual_st.huggingface"  # the module to import; transformers shows this name in its warning
DESCRIPTION = "quantization_config"  # transformers' name for it
_OLD = "residual_st"  # config entry with the encoder's form in folders of 0.1.0 and early 0.2.0
_ARGUMENTS = ("group_size", "pattern", "rank", "diagonal")  # of `form_of`


@register_quantization_config(METHOD)
class SharedLayersConfig(QuantizationConfigMixin):
    """The parts of a model that have shared layers.

    Args:
        forms: part, such as `encoder` -> arguments of `residual_st.sharing.form_of`.
        quant_method: `METHOD`, as transformers reads it.
    """

    quant_method: Any  # transformers' class lists the names of its own methods

    def __init__(self, forms: dict[str, dict], quant_method: str = METHOD):
        self.quant_method = quant_method
        self.forms = forms


def forms_of(config: PretrainedConfig) -> dict[str, dict]:
    """The forms of a model's parts, from its config; empty for a dense model."""
    described = getattr(config, DESCRIPTION, None)
    return dict(described.forms) if isinstance(described, SharedLayersConfig) else {}


def translate_old(config: PretrainedConfig) -> None:
    """Convert the config of an old folder to the current format, in place."""
    if hasattr(config, _OLD):
        setattr(config, DESCRIPTION, {"quant_method": METHOD, "forms": {"encoder": getattr(config, _OLD)}})
        delattr(config, _OLD)


def describe_sharing(config: PretrainedConfig, part: str, owner: nn.Module, form: SharedForm) -> None:
    """Describe the shared layers of a part in a model's config and state dict.

    Args:
        owner: the module that holds the part's layers and their shared weights.
        form: form of the layers.
    """
    arguments = dict(zip(_ARGUMENTS, (form.to_flags("")[name] for name in flag_names(""))))
    setattr(config, DESCRIPTION, SharedLayersConfig({**forms_of(config), part: arguments}))
    refuse_all_linear()
    owner.register_state_dict_post_hook(_mark)
    owner.register_load_state_dict_pre_hook(_drop_marks)


def marks(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the composed weights in a module, which are stored as marks."""
    return [f"{prefix}{name}.weight" for name, inner in module.named_modules() if isinstance(inner, ResidualLinear)]


def _mark(owner: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    state.update({name: torch.zeros(1, dtype=torch.uint8) for name in marks(owner, prefix)})


def _drop_marks(owner: nn.Module, state: dict, prefix: str, *_rest) -> None:
    for name in marks(owner, prefix):
        if name in state and state[name].dtype == torch.uint8:
            del state[name]
