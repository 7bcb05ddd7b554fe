"""Words of a text decoder: the greedy output of `generate`, and the decoder's loss on it."""

import torch
import transformers
from torch import Tensor, nn

from residual_st.huggingface.generation import greedy_words
from residual_st.huggingface.words.batch import AudioBatch
from residual_st.huggingface.words.repeating import Repeating

MOST_WORDS = 448  # maximum for half a minute: the number of positions of Whisper's decoder


class DecodedWords:
    """For models with `generate` and `decoder_input_ids`.

    Args:
        defaults: default arguments of `generate`, such as `tgt_lang`.
    """

    def __init__(self, **defaults: str):
        self.defaults = defaults

    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **generate_kwargs: str | int) -> AudioBatch:
        return AudioBatch(inputs, *greedy_words(model, inputs, MOST_WORDS, [Repeating()], **(self.defaults | generate_kwargs)))

    def apart(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> list[AudioBatch]:
        """Split a batch into utterances, without padding after their words."""
        lengths = (batch.prompt + self._counted(model, batch).sum(1)).tolist()
        inputs = [dict(zip(batch.inputs, each)) for each in zip(*(value.split(1) for value in batch.inputs.values()))]
        return [
            AudioBatch(utterance, words[None, :length], batch.prompt)
            for utterance, words, length in zip(inputs, batch.words, lengths)
        ]

    def count(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> int:
        return int(self._counted(model, batch).sum())

    def loss(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        words = batch.words[:, batch.prompt :][self._counted(model, batch)]
        return nn.functional.cross_entropy(self.predict(model, batch).float(), words, reduction="sum")

    def predict(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        counted = self._counted(model, batch)
        there = nn.functional.pad(counted, (batch.prompt - 1, 0), value=True)
        words = {"decoder_input_ids": batch.words[:, :-1], "decoder_attention_mask": there.long()}
        logits = model(**batch.inputs, **words, use_cache=False).logits  # calling a layer again would append to a cache
        return logits[:, batch.prompt - 1 :][counted]

    def _counted(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        """(batch, words), True for the words of each utterance after the prompt, including the end."""
        end = model.generation_config.eos_token_id
        end = torch.as_tensor(model.config.eos_token_id if end is None else end, device=batch.words.device)
        ends = torch.isin(batch.words[:, batch.prompt :], end)
        return ends.cumsum(1) - ends.long() == 0
