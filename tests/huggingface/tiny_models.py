"""Small random Whisper and Speech2Text models in folders."""

import torch
from conftest import TINY_HUGGING_FACE
from transformers import (
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

SIZE = {
    **TINY_HUGGING_FACE,
    "vocab_size": 60,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def make(kind: str, folder):
    torch.manual_seed(1)
    if kind == "whisper":
        model = WhisperForConditionalGeneration(WhisperConfig(**SIZE, num_mel_bins=80, max_source_positions=1500))
        WhisperFeatureExtractor().save_pretrained(folder)
    else:
        model = Speech2TextForConditionalGeneration(Speech2TextConfig(**SIZE))
        Speech2TextFeatureExtractor().save_pretrained(folder)
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    model.save_pretrained(folder)
    return model.eval()


def outputs(model):
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(3, 60, (2, 5), generator=generator)
    if model.config.model_type == "whisper":
        return model(torch.randn(2, 80, 3000, generator=generator).to(model.dtype), decoder_input_ids=words).logits
    features = torch.randn(2, 100, 80, generator=generator).to(model.dtype)
    mask = torch.tensor([[1] * 100, [1] * 60 + [0] * 40])
    return model(features, attention_mask=mask, decoder_input_ids=words).logits
