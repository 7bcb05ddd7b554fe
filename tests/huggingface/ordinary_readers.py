"""Ways of transformers to load a Whisper folder: `python ordinary_readers.py FOLDER…` prints how each of them ends.

It does not import residual_st. The output has the error of each folder and reader, or None.
"""

import json
import sys

if __name__ == "__main__":
    sys.modules["torchaudio"] = None  # a dependency of fairseq-fixed that often fails to load

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModel,
    AutoModelForSpeechSeq2Seq,
    PreTrainedTokenizerFast,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
    pipeline,
)


def by_pipeline(folder):
    words = Tokenizer(WordLevel({str(number): number for number in range(60)}, unk_token="3"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    return pipeline("automatic-speech-recognition", model=str(folder), tokenizer=tokenizer).model


READERS = {
    "model class": WhisperForConditionalGeneration.from_pretrained,
    "AutoModelForSpeechSeq2Seq": AutoModelForSpeechSeq2Seq.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "without a head": WhisperModel.from_pretrained,
    "with another head": WhisperForAudioClassification.from_pretrained,
    "pipeline": by_pipeline,
    "float16": lambda folder: WhisperForConditionalGeneration.from_pretrained(folder, torch_dtype=torch.float16),
    "bfloat16": lambda folder: AutoModel.from_pretrained(folder, torch_dtype=torch.bfloat16),
    "auto": lambda folder: AutoModelForSpeechSeq2Seq.from_pretrained(folder, torch_dtype="auto"),
    "device_map": lambda folder: AutoModelForSpeechSeq2Seq.from_pretrained(folder, device_map="cpu"),
    "low_cpu_mem_usage": lambda folder: AutoModelForSpeechSeq2Seq.from_pretrained(folder, low_cpu_mem_usage=True),
    "low_cpu_mem_usage off": lambda folder: AutoModelForSpeechSeq2Seq.from_pretrained(folder, low_cpu_mem_usage=False),
}


def error_of(reader, folder):
    try:
        reader(folder)
    except Exception as error:  # any class, which is part of the report
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    print(json.dumps({folder: {name: error_of(reader, folder) for name, reader in READERS.items()} for folder in sys.argv[1:]}))
