"""The one place that knows fairseq, torch and Python versions."""

import argparse
import logging

import torch
from torch import Tensor, nn

# fairseq says on every import, at level INFO, that tensorboardX is missing, which only its speech synthesis uses
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)


def allow_fairseq_checkpoints() -> None:
    """Let `torch.load(weights_only=True)`, the default since torch 2.6, read fairseq checkpoints.

    They hold tensors, plain containers and the training flags as an `argparse.Namespace`, which can run no code. Anything else in a
    checkpoint is refused, as it should be: a pickle from a stranger is a program.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


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
        layer._load_from_state_dict = nn.Module._load_from_state_dict.__get__(layer)  # theirs fills the copies


def reconcile_versions(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> None:
    """Make the state dict `theirs` of one fairseq version fit a model of another, whose state dict is `ours`, in place.

    0.12.2 saves the fused copies, and an empty `_float_tensor` with sinusoidal positions; fairseq-fixed saves neither.
    """
    for key in [key for key in theirs if key not in ours]:
        if key.endswith("._float_tensor") or key.rpartition(".")[2] in _FUSED_COPIES:
            del theirs[key]
    for key, value in ours.items():
        if key.endswith("._float_tensor"):
            theirs.setdefault(key, value)
