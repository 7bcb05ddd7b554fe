"""For encoders without words: their output states replace the words.

The target is the dense model's output plus Gaussian noise, and the loss is the negative log-likelihood of the target, up to a
constant. Its gradient at the dense model is the noise, so the mean of squared gradients, which weights errors, is that of the
squared error.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from residual_st.huggingface.words.batch import AudioBatch
from residual_st.huggingface.words.frames import real_frames


def base_states(model: transformers.PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """The output (frames without padding, width) of a model without its head."""
    states = model.base_model(**inputs).last_hidden_state
    return states[real_frames(model, inputs, states)]


class EncodedStates:
    """For base models, with any head.

    Args:
        compute: function (model, inputs) -> output (frames without padding, width).
    """

    def __init__(self, compute: Callable[[Any, dict[str, Tensor]], Tensor] = base_states):
        self._states = compute

    @torch.no_grad()
    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **generate_kwargs: str | int) -> AudioBatch:
        states = self._states(model, inputs)
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states)
        return AudioBatch(inputs, torch.stack([states, noise * states.std()]))

    def count(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> int:
        """Number of values, each of which counts as a word."""
        return batch.words[0].numel()

    def loss(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        states, noise = batch.words
        distance = self._states(model, batch.inputs) - states - noise
        return distance.float().square().sum() / (2 * noise.float().var())

    @property
    def predict(self) -> None:
        """Not available: there are no words, so refinement compares only the layers' outputs."""
