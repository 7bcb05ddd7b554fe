"""Which frames of an encoder's output are audio and not padding."""

from typing import Any

import torch
from torch import Tensor


def real_frames(model: Any, inputs: dict[str, Tensor], states: Tensor) -> Tensor:
    """(batch, frames), True where a model's output (batch, frames, …) is audio; all True without a mask."""
    batch, frames = states.shape[:2]
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(batch, frames, dtype=torch.bool, device=states.device)
    lengths = model._get_feat_extract_output_lengths(mask.sum(-1))  # as in transformers' own loss
    return torch.arange(frames, device=states.device) < lengths[:, None]
