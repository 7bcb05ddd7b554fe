"""How transformers' `from_pretrained` builds models with shared layers: as those of a quantisation method, in its registry of them.

The model that transformers has built is made to share its layers before its weights are read. The result is an ordinary model: it
can do what transformers withholds from quantised ones, such as another precision, training, and saving a state dict that is given.
"""

import re
from collections.abc import Collection, Iterator

import transformers
from transformers.modeling_utils import load_state_dict
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer

from residual_st.errors import InputError
from residual_st.huggingface.description import METHOD, forms_of, marks
from residual_st.huggingface.kinds import PARTS, stacks_of
from residual_st.sharing import ResidualLinear, SharedForm, SharedWeights, form_of, matrices, share_layers
from residual_st.stacks import LayerStack


@register_quantizer(METHOD)
class SharedLayersQuantizer(HfQuantizer):
    """Shares the layers that a model's config describes."""

    requires_calibration = True  # transformers then refuses to load an ordinary folder as a shared one
    is_trainable = True

    def is_serializable(self, **_) -> bool:
        return True

    def _process_model_before_weight_loading(self, model: transformers.PreTrainedModel, checkpoint_files=None, **_) -> None:
        for stack, form in _parts(model):
            stack.owner.shared_weights = share_layers(stack.layers, form_of(stack.layers, **form))
        ignored = model._keys_to_ignore_on_load_unexpected
        kind = set if isinstance(ignored, set) else list  # it depends on the release
        model._keys_to_ignore_on_load_unexpected = kind([*(ignored or ()), *(f"{re.escape(name)}$" for name in marks(model))])
        if checkpoint_files:
            _require_terms(model, [name for file in checkpoint_files for name in load_state_dict(file, map_location="meta")])

    def update_expected_keys(
        self, model: transformers.PreTrainedModel, expected_keys: list[str], loaded_keys: list[str]
    ) -> list[str]:
        """transformers 4 asks this once it knows what is stored, and names no files before."""
        _require_terms(model, loaded_keys)
        return expected_keys

    def _process_model_after_weight_loading(self, model: transformers.PreTrainedModel, **_) -> None:
        for stack, form in _parts(model):
            names = tuple(name for name, _ in matrices(stack.layers[0]))
            stack.on_sharing(stack.owner, SharedForm.make(len(stack.layers), names, **form))
        model.is_quantized = False
        for name in ("quantization_method", "hf_quantizer"):
            vars(model).pop(name, None)
        vars(model.config).pop("_pre_quantization_dtype", None)  # of transformers 4, which cannot write it for ordinary models


def _parts(model: transformers.PreTrainedModel) -> Iterator[tuple[LayerStack, dict]]:
    """Those of the described parts that a model has: a decoder alone, read from the same folder, has no encoder.

    A part that is there and not known is as one that is not there: the marks among its weights are refused.
    """
    stacks = stacks_of(model)
    for part, form in forms_of(model.config).items():
        if part not in PARTS:
            raise InputError(
                f"config.json of {model.config.name_or_path} says that {part} shares its layers; "
                f"it must be one of {', '.join(PARTS)}"
            )
        if part in stacks:
            yield stacks[part], form


def _require_terms(model: transformers.PreTrainedModel, stored: Collection[str]) -> None:
    """Raise InputError if a part of a shared matrix, or its bias, is not stored. transformers would draw it at random, and warn."""
    holders = {name: module for name, module in model.named_modules() if isinstance(module, (ResidualLinear, SharedWeights))}
    terms = [f"{name}.{own}" for name, module in holders.items() for own in module.state_dict()]
    # either name may lack the prefix that models with a head have before their encoder's
    missing = [term for term in terms if not any(term.endswith(name) or name.endswith(term) for name in stored)]
    if missing:
        raise InputError(
            f"{model.config.name_or_path} does not hold the model that its config.json describes: "
            f"missing keys, first {min(missing)}"
        )
