"""Words of a CTC head: the most probable symbol per frame, without repetitions and blanks, and the CTC loss on them."""

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from residual_st.huggingface.words.batch import AudioBatch
from residual_st.huggingface.words.frames import real_frames


class CtcWords:
    """For models with `logits` per frame, whose blank is the `pad_token_id` of their config."""

    @torch.no_grad()
    def write(self, model: transformers.PreTrainedModel, inputs: dict[str, Tensor], **generate_kwargs: str | int) -> AudioBatch:
        blank, logits = model.config.pad_token_id, model(**inputs).logits
        words = []
        for best, frames in zip(logits.argmax(-1), real_frames(model, inputs, logits)):
            symbols = best[frames].unique_consecutive()
            words.append(symbols[symbols != blank])
        return AudioBatch(inputs, pad_sequence(words, batch_first=True, padding_value=blank))

    def count(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> int:
        return int(self._counted(model, batch).sum())

    def loss(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        logits = model(**batch.inputs).logits
        counted, frames = self._counted(model, batch), real_frames(model, batch.inputs, logits)
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        lengths, blank = (frames.sum(1), counted.sum(1)), model.config.pad_token_id
        return nn.functional.ctc_loss(log_probs, batch.words[counted], *lengths, blank, reduction="sum")

    def predict(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        """Scores (frames without padding, vocabulary)."""
        logits = model(**batch.inputs).logits
        return logits[real_frames(model, batch.inputs, logits)]

    def _counted(self, model: transformers.PreTrainedModel, batch: AudioBatch) -> Tensor:
        """(batch, words), True for words, False for padding."""
        return batch.words != model.config.pad_token_id
