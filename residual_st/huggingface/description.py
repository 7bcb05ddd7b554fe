"""What a model says of its shared layers: in its config the form of each part, and in its state dict marks.

transformers' own `save_pretrained` writes both, so every folder describes itself. `quantization_config` in `config.json` is where
transformers looks for a method by which weights are stored in another way. With `residual_st.huggingface` imported it knows ours
(residual_st/huggingface/quantizer.py). Without, it warns that it does not, and treats it as an ordinary model: it would find no
weights for the shared matrices, and draw random ones. So a mark takes the place of each composed weight in the file. A mark has
another shape than the weight, which an ordinary `from_pretrained` refuses.
"""

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.quantizers.auto import register_quantization_config
from transformers.utils.quantization_config import QuantizationConfigMixin

from residual_st.compat import refuse_all_linear
from residual_st.sharing import ResidualLinear, SharedForm
from residual_st.sharing.form import flag_names

METHOD = "residual_st.huggingface"  # what to import: transformers says that it does not know the method of this name
DESCRIPTION = "quantization_config"  # transformers' name for it
_OLD = "residual_st"  # where folders of 0.1.0, and the first of 0.2.0, have the form of their encoder
_ARGUMENTS = ("group_size", "pattern", "rank", "diagonal")  # of `form_of`


@register_quantization_config(METHOD)
class SharedLayersConfig(QuantizationConfigMixin):
    """The parts of a model whose layers share.

    Args:
        forms: part, such as `encoder` -> arguments of `residual_st.sharing.form_of`.
        quant_method: `METHOD`, as transformers reads it.
    """

    def __init__(self, forms: dict[str, dict], quant_method: str = METHOD):
        self.quant_method = quant_method
        self.forms = forms


def forms_of(config: PretrainedConfig) -> dict[str, dict]:
    """The forms of a model's parts, as its config describes them; none of an ordinary model."""
    described = getattr(config, DESCRIPTION, None)
    return dict(described.forms) if isinstance(described, SharedLayersConfig) else {}


def is_described(config: dict) -> bool:
    """Whether a `config.json` says that layers share."""
    return _OLD in config or (config.get(DESCRIPTION) or {}).get("quant_method") == METHOD


def translate_old(config: PretrainedConfig) -> None:
    """Have the config of an old folder say what it would today, in place."""
    if hasattr(config, _OLD):
        setattr(config, DESCRIPTION, {"quant_method": METHOD, "forms": {"encoder": getattr(config, _OLD)}})
        delattr(config, _OLD)


def describe_sharing(config: PretrainedConfig, part: str, owner: nn.Module, form: SharedForm) -> None:
    """Make a model say in its config, and in its state dict, that a part shares.

    Args:
        owner: the module that holds the part's layers and their shared weights.
        form: that of the layers.
    """
    arguments = dict(zip(_ARGUMENTS, (form.to_flags("")[name] for name in flag_names(""))))
    setattr(config, DESCRIPTION, SharedLayersConfig({**forms_of(config), part: arguments}))
    refuse_all_linear()
    owner.register_state_dict_post_hook(_mark)
    owner.register_load_state_dict_pre_hook(_drop_marks)


def marks(module: nn.Module, prefix: str = "") -> list[str]:
    """Names of the composed weights inside a module, which are stored as marks."""
    return [f"{prefix}{name}.weight" for name, inner in module.named_modules() if isinstance(inner, ResidualLinear)]


def _mark(owner: nn.Module, state: dict, prefix: str, _metadata: dict) -> None:
    state.update({name: torch.zeros(1, dtype=torch.uint8) for name in marks(owner, prefix)})


def _drop_marks(owner: nn.Module, state: dict, prefix: str, *_rest) -> None:
    for name in marks(owner, prefix):
        if name in state and state[name].dtype == torch.uint8:
            del state[name]
