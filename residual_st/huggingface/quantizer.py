"""Loading of models with shared layers by transformers' `from_pretrained`, registered as a quantisation method.

After transformers has built the model, its layers are replaced by shared ones before the weights are read. The result is an
ordinary model that also supports what transformers forbids for quantised ones: changing its precision, training, and saving a given
state dict.
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
    """Shares the layers described in a model's config."""

    requires_calibration = True  # then transformers refuses to load an ordinary folder as a shared one
    is_trainable = True

    def is_serializable(self, **_) -> bool:
        return True

    def _process_model_before_weight_loading(self, model: transformers.PreTrainedModel, checkpoint_files=None, **_) -> None:
        for stack, form in _parts(model):
            stack.register(share_layers(stack.layers, form_of(stack.layers, **form)))
        ignored = model._keys_to_ignore_on_load_unexpected
        kind = set if isinstance(ignored, set) else list  # depends on the release
        model._keys_to_ignore_on_load_unexpected = kind([*(ignored or ()), *(f"{re.escape(name)}$" for name in marks(model))])
        if checkpoint_files:
            _require_terms(model, [name for file in checkpoint_files for name in load_state_dict(file, map_location="meta")])

    def update_expected_keys(
        self, model: transformers.PreTrainedModel, expected_keys: list[str], loaded_keys: list[str]
    ) -> list[str]:
        """transformers 4 calls this when it has read the names of the stored weights; it passes no files before."""
        _require_terms(model, loaded_keys)
        return expected_keys

    def _process_model_after_weight_loading(self, model: transformers.PreTrainedModel, **_) -> None:
        for stack, form in _parts(model):
            weights = stack.shared_weights
            if len(weights) and (fault := weights.fault_of(weights.layer_groups)):  # loaded past SharedWeights' own check
                raise _other_model(model, f"it {fault}")
            names = tuple(name for name, _ in matrices(stack.layers[0]))
            stack.record(SharedForm.make(len(stack.layers), names, **form))
        vars(model).update(is_quantized=False)
        for name in ("quantization_method", "hf_quantizer"):
            vars(model).pop(name, None)
        vars(model.config).pop("_pre_quantization_dtype", None)  # set by transformers 4, which cannot write it for ordinary models


def _parts(model: transformers.PreTrainedModel) -> Iterator[tuple[LayerStack, dict]]:
    """The described parts that the model has: a decoder loaded alone from such a folder has no encoder.

    A part of an unknown kind is skipped too; its marks then fail to load.
    """
    stacks = stacks_of(model)
    for part, form in forms_of(model.config).items():
        if part not in PARTS:
            raise InputError(
                f"config.json of {model.config.name_or_path} describes shared layers in {part}; "
                f"it must be one of {', '.join(PARTS)}"
            )
        if part in stacks:
            yield stacks[part], form


def _require_terms(model: transformers.PreTrainedModel, stored: Collection[str]) -> None:
    """Raise InputError if a term of a shared matrix or its bias is not stored. transformers would initialise it at random."""
    holders = {name: module for name, module in model.named_modules() if isinstance(module, (ResidualLinear, SharedWeights))}
    terms = [f"{name}.{own}" for name, module in holders.items() for own in module.state_dict()]
    # either name may lack the prefix of models with a head
    missing = [term for term in terms if not any(term.endswith(name) or name.endswith(term) for name in stored)]
    if missing:
        raise _other_model(model, f"missing keys, first {min(missing)}")


def _other_model(model: transformers.PreTrainedModel, fault: str) -> InputError:
    return InputError(f"{model.config.name_or_path} does not contain the model that its config.json describes: {fault}")
