"""The one place that deals with differences between fairseq, torch and Python versions."""

import sys
from importlib.util import find_spec

from torch import Tensor, nn

# fairseq 0.12.2 registers these beside the six matrices of an encoder layer: a second copy, for a fused kernel that serves
# post-norm layers in inference
_FUSED_COPIES = [f"{name}_{kind}" for name in ("in_proj", "out_proj", "fc1", "fc2") for kind in ("weight", "bias")]


def drop_fused_copies(layers: nn.ModuleList) -> None:
    """Take the second copy of their weights from fairseq 0.12.2's encoder layers, in place; other versions have none.

    It would make a shared model as large as a dense one, and hide the residuals wherever the kernel is used.
    """
    for layer in layers:
        for name in _FUSED_COPIES:
            if name in layer._parameters:
                delattr(layer, name)
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
