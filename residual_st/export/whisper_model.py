"""Hugging Face folders of Whisper, dense or compressed, as folders for the device runtime."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from residual_st.errors import InputError
from residual_st.export.decoder import cross_attention_graph, decoder_graph
from residual_st.export.folder import write_folder
from residual_st.export.whisper import decoder_parts, encoder_graph
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, ENCODER
from residual_st.transformers import load
from residual_st.transformers.calibration import prompt_of

# transformers comes behind residual_st.transformers, which hides a torchaudio that does not load
from transformers import AutoFeatureExtractor, AutoTokenizer, WhisperForConditionalGeneration  # isort: skip


def export_whisper(source: str | Path, output: Path, precision: str = "fp32", audio: Sequence[Path] = ()) -> dict:
    """Write a Whisper as a folder that `residual_st.runtime` reads, after checking it against the model.

    Args:
        source: a Hugging Face folder of Whisper, or what `residual-st compress` made of one.
        output, precision, audio: as those of `export_checkpoint`.

    Raises:
        InputError: if the folder cannot be read, or is of another model.
    """
    model = load(source)
    if model.config.model_type != "whisper":
        raise InputError(f"{source} is of {model.config.model_type}; of Hugging Face's models, Whisper alone can be exported")
    extractor, decoder = AutoFeatureExtractor.from_pretrained(source), decoder_parts(model)
    graphs = {
        ENCODER: encoder_graph(model, extractor, precision),
        CROSS_ATTENTION: cross_attention_graph(decoder, precision),
        DECODER: decoder_graph(decoder, precision),
    }
    vocabulary = _vocabulary(model, AutoTokenizer.from_pretrained(source))
    attention = model.model.decoder.layers[0].self_attn
    described = {
        "arch": "whisper",
        "precision": precision,
        "sample_rate": extractor.sampling_rate,
        "shortest_samples": extractor.n_fft,
        "longest_seconds": extractor.chunk_length,
        "longest_words": model.config.max_target_positions,
        "decoder": {"layers": len(model.model.decoder.layers), "heads": attention.num_heads, "head_width": attention.head_dim},
        "has_ctc": False,
        "vocabulary": vocabulary,
    }
    return write_folder(output, graphs, described, _Reference(model, extractor), audio)


class _Reference:
    """The model, for `check_against`."""

    def __init__(self, model: WhisperForConditionalGeneration, extractor):
        self._model, self._extractor = model, extractor

    def encode(self, samples: np.ndarray) -> np.ndarray:
        inputs = self._extractor(samples, sampling_rate=self._extractor.sampling_rate, return_tensors="pt").input_features
        self._encoded = self._model.get_encoder()(inputs)
        return self._encoded[0].numpy()

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        given = torch.tensor([tokens])
        return self._model(encoder_outputs=self._encoded, decoder_input_ids=given).logits[0, -1].log_softmax(-1).numpy()


def _vocabulary(model: WhisperForConditionalGeneration, tokenizer) -> dict:
    """What `runtime.vocabulary.Vocabulary` takes. Everything from the end of a text on is no word."""
    start, *begin = prompt_of(model)
    eos, size = model.config.eos_token_id, model.config.vocab_size
    languages = {tag.strip("<|>"): number for tag, number in (getattr(model.generation_config, "lang_to_id", None) or {}).items()}
    symbols = [symbol or "" for symbol in tokenizer.convert_ids_to_tokens(range(size))]
    begin = [number for number in begin if number not in languages.values()]
    numbers = {"start": start, "begin": begin, "eos": eos, "pad": None, "unk": None}
    return {"symbols": symbols, "pieces": "bytes", **numbers, "languages": languages, "hidden": list(range(eos, size))}
