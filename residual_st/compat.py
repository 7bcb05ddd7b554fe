"""Differences between versions of fairseq, torch and Python, and workarounds for other libraries; all of them are here."""

import importlib
import sys
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from residual_st.errors import InputError
from residual_st.wrapping import wrap

# fairseq 0.12.2 registers these in addition to the six matrices of an encoder layer: a second copy, for a fused kernel for
# post-norm layers in inference
_FUSED_COPIES = [f"{name}_{kind}" for name in ("in_proj", "out_proj", "fc1", "fc2") for kind in ("weight", "bias")]


def drop_fused_copies(layers: nn.ModuleList) -> None:
    """Remove the second copy of the weights from fairseq 0.12.2's encoder layers, in place; other versions have none.

    The copy would make a shared model as large as a dense one, and bypass the residuals whenever the kernel is used.
    """
    for index in range(len(layers)):  # some containers drop layers at random in iteration (LayerDrop)
        layer: Any = layers[index]
        copies = [name for name in _FUSED_COPIES if name in layer._parameters]
        for name in copies:
            delattr(layer, name)
        if copies:
            layer.can_use_fastpath = False
            layer._load_from_state_dict = nn.Module._load_from_state_dict.__get__(layer)  # fairseq's fills the copies


def padding_of(conv: nn.Conv1d) -> int:
    """Number of frames of padding at each end. Raises InputError for torch's `same` and `valid`, which are not numbers."""
    if isinstance(conv.padding, str):
        raise InputError(f"a convolution with padding={conv.padding} is not supported; the padding must be a number")
    return conv.padding[0]


# entries that some fairseq versions save with the weights, without effect on the model's output
_MARKS = ("_float_tensor", "version")


def reconcile_versions(loaded: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Adapt the state dict `loaded` of one fairseq version to a model of another, whose state dict is `expected`, in place.

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
    """Hide a torchaudio that does not load from other libraries. Call this before importing them.

    fairseq-fixed installs a torchaudio that often does not match the installed torch. `transformers` imports it if present, for
    models that this package does not support; without it, it computes Speech2Text's features itself. So there is no warning.
    """
    if find_spec("transformers") is None:
        return  # the missing transformers is reported then
    try:
        import torchaudio  # noqa: F401
    except ImportError:
        return
    except OSError:
        # Python's mark for a module that cannot be imported
        sys.modules["torchaudio"] = None  # type: ignore[assignment] # typeshed knows of modules only


def refuse_all_linear() -> None:
    """Make peft, if installed, refuse `target_modules="all-linear"` for a model with shared layers.

    The setting selects every `nn.Linear`, and a ResidualLinear is not one: peft merges an adapter by adding to `.weight` in place,
    but here `.weight` is composed at each access. Without the error, shared matrices would silently get no adapters.
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
                "peft's all-linear skips shared matrices; expand the model first (residual-st expand), or select the "
                r"decoder's matrices with a regular expression: target_modules=r'.*decoder.*\.(q_proj|v_proj)'"
            )
        return original(peft_config, model)

    for module in [module for key, module in sys.modules.items() if key.startswith("peft.")]:
        if vars(module).get(name) is before:
            setattr(module, name, getattr(tuners, name))
