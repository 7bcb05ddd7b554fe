"""Qwen2-Audio: its audio tower, judged by the input of the language model, which need not run."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from residual_st.huggingface.kinds.kind import Kind
from residual_st.huggingface.kinds.whisper import symmetries
from residual_st.huggingface.words import EncodedStates
from residual_st.stacks import KnownLayers


def _read(model: transformers.Qwen2AudioForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    """The projected output of the tower (frames without padding, width of the language model)."""
    inner: Any = getattr(model, "model", model)  # newer releases: the part without the output head
    tower, features = inner.audio_tower, inputs["input_features"]
    positions, frames = tower._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))
    there = torch.arange((features.size(-1) - 2) // 2 + 1, device=features.device) < positions[:, None]
    lowest = torch.finfo(features.dtype).min
    mask = torch.zeros(there.shape, dtype=features.dtype, device=features.device).masked_fill(~there, lowest)
    mask = mask[:, None, None].expand(-1, 1, there.size(1), -1)
    states = inner.multi_modal_projector(tower(features, attention_mask=mask).last_hidden_state)
    return states[torch.arange(states.size(1), device=features.device) < frames[:, None]]


KIND = Kind(
    "qwen2_audio",
    models={"Qwen2AudioForConditionalGeneration": EncodedStates(_read)},
    encoder=KnownLayers(layers=("Qwen2AudioEncoderLayer",), symmetries=symmetries),
    encode=_read,
    in_windows=True,
)
