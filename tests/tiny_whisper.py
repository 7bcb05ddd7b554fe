"""Small random Whisper folders whose words are bytes."""

from pathlib import Path

import torch
from conftest import TINY_HUGGING_FACE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from residual_st.audio.reading import read_audio

SPEECH = Path(__file__).with_name("speech") / "arctic_a0007.wav"


# with two languages and timestamps; these words follow those for the 256 bytes
END, START, ENGLISH, GERMAN, TRANSLATE, TRANSCRIBE, SILENCE, NONE, FIRST = range(256, 265)
WORDS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>", "<|nospeech|>"]
WORDS += ["<|notimestamps|>", *(f"<|{0.02 * step:.2f}|>" for step in range(1501))]
SETTINGS = {
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": ENGLISH, "<|de|>": GERMAN},
    "task_to_id": {"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    "no_timestamps_token_id": NONE,
    "max_initial_timestamp_index": 50,
    "max_length": 60,
    "begin_suppress_tokens": [32, END],
}


def bytes_tokenizer(special: list[str], added: tuple = ()) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[0])


def save_whisper(folder: Path, special: list[str], **settings) -> Path:
    """Save a random Whisper whose words are bytes and these special ones. The first ends a text, the second starts it."""
    tokenizer = bytes_tokenizer(special)
    end, start = tokenizer.convert_tokens_to_ids(special[:2])
    ends = {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    torch.manual_seed(1)
    model = WhisperForConditionalGeneration(WhisperConfig(**TINY_HUGGING_FACE, **ends, vocab_size=len(tokenizer)))
    for parameter in model.model.decoder.layers.parameters():
        if parameter.dim() == 2:  # prevents endless repetition of a word
            torch.nn.init.normal_(parameter, std=0.3)
    model.generation_config = GenerationConfig(**ends, **settings)
    model.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def features_of(source: Path) -> torch.Tensor:
    extractor = WhisperFeatureExtractor.from_pretrained(source)
    return extractor(read_audio(SPEECH, 16_000), sampling_rate=16_000, return_tensors="pt").input_features
