"""The one place that deals with differences between fairseq, torch and Python versions, and with what other libraries assume."""

import importlib
import sys
from importlib.util import find_spec

from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.wrapping import wrap

# fairseq 0.12.2 registers these beside the six matrices of an encoder layer: a second copy, for a fused kernel that serves
# post-norm layers in inference
_FUSED_COPIES = [f"{name}_{kind}" for name in ("in_proj", "out_proj", "fc1", "fc2") for kind in ("weight", "bias")]


def drop_fused_copies(layers: nn.ModuleList) -> None:
    """Take the second copy of their weights from fairseq 0.12.2's encoder layers, in place; other versions have none.

    It would make a shared model as large as a dense one, and hide the residuals wherever the kernel is used.
    """
    for index in range(len(layers)):  # some containers drop layers at random where they are iterated over
        layer = layers[index]
        copies = [name for name in _FUSED_COPIES if name in layer._parameters]
        for name in copies:
            delattr(layer, name)
        if copies:
            layer.can_use_fastpath = False
            layer._load_from_state_dict = nn.Module._load_from_state_dict.__get__(layer)  # fairseq's fills the copies


# what fairseq versions save beside the weights, with no bearing on what the model computes
_MARKS = ("_float_tensor", "version")


def reconcile_versions(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Make the state dict `loaded` of one fairseq version fit a model of another, whose state dict is `expected`, in place.

    0.12.2 saves the fused copies, and an empty `_float_tensor` with sinusoidal positions; fairseq-fixed saves neither. Before 0.10
    there was an `encoder.version`.
    """
    for key in [key for key in loaded if key not in expected]:
        if key.rpartition(".")[2] in (*_MARKS, *_FUSED_COPIES):
            del loaded[key]
    for key, value in expected.items():
        if key.rpartition(".")[2] in _MARKS:
            loaded.setdefault(key, value)


def hide_broken_torchaudio() -> None:
    """Let other libraries do without a torchaudio that does not load. To be called before they are imported.

    fairseq-fixed brings one, which is often of another build than the torch beside it; `transformers` imports it where it is there,
    for models that are none of ours, and computes Speech2Text's features itself without it. So nothing is said.
    """
    if find_spec("transformers") is None:
        return  # whose absence is then what is said
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        return
    except OSError:
        sys.modules["torchaudio"] = None  # how Python marks what is not to be found


def refuse_all_linear() -> None:
    """Have peft, where it is installed, refuse `target_modules="all-linear"` for a model with shared layers.

    It means every `nn.Linear`. A ResidualLinear is none: peft merges an adapter by adding to `.weight` in place, and here that is
    composed at each access. So the shared matrices would get no adapters, and nothing would say so.
    """
    try:
        tuners = importlib.import_module("peft.tuners.tuners_utils")
    except ImportError:
        return
    name = "_maybe_include_all_linear_layers"
    before = getattr(tuners, name, None)
    if before is None:
        return

    @wrap(tuners, name)
    def refusing(original, peft_config, model):
        from residual_st.sharing import ResidualLinear

        targets = getattr(peft_config, "target_modules", None)
        is_for_all = isinstance(targets, str) and targets.lower() == "all-linear"
        if is_for_all and any(isinstance(module, ResidualLinear) for module in model.modules()):
            raise InputError(
                "peft's all-linear passes over the shared matrices; expand the model first (residual-st expand), or give the "
                r"decoder's alone as a regular expression: target_modules=r'.*decoder.*\.(q_proj|v_proj)'"
            )
        return original(peft_config, model)

    for module in [module for key, module in sys.modules.items() if key.startswith("peft.")]:
        if vars(module).get(name) is before:
            setattr(module, name, getattr(tuners, name))
