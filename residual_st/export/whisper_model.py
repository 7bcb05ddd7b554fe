"""Export of Hugging Face folders of Whisper, dense or compressed."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from residual_st.audio.lengths import Lengths
from residual_st.errors import InputError
from residual_st.export.check import Greedy, check_against
from residual_st.export.decoder import cross_attention_graph, decoder_graph
from residual_st.export.folder import write_folder
from residual_st.export.whisper import decoder_parts, encoder_graph
from residual_st.export.whisper_decoding import fallback_of, timestamps_of
from residual_st.export.whisper_words import not_followed, read_tokenizer, search_settings, vocabulary_of
from residual_st.huggingface import feature_extractor, load
from residual_st.huggingface.generation import greedy_words
from residual_st.languages import Direction, Languages
from residual_st.runtime.folder import CROSS_ATTENTION, DECODER, ENCODER, WHISPER

# import transformers after residual_st.huggingface, which hides a torchaudio that does not load
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration  # isort: skip


def export_whisper(
    source: str | Path,
    output: Path,
    precision: str = "fp32",
    audio: Sequence[Path] = (),
    direction: Direction = Direction(),  # noqa: B008 - frozen
) -> dict:
    """Export a Whisper model as a folder for `residual_st.runtime`, and check it against the model.

    Args:
        source: a Hugging Face folder of Whisper, dense or compressed by `residual-st compress`.
        output, precision, audio, direction: see `export_checkpoint`.

    Raises:
        InputError: if the folder cannot be read, has no tokenizer, contains another model, or does not have the direction.
    """
    model = load(source).float()
    if model.config.model_type != "whisper":
        exported = "it must be one of Whisper, Wav2Vec2ForCTC, HubertForCTC to be exported"
        raise InputError(f"{source} has model_type {model.config.model_type}; {exported}")
    extractor, decoder = feature_extractor(source, WhisperFeatureExtractor), decoder_parts(model)
    tokenizer, settings, positions = read_tokenizer(source), model.generation_config, model.config.max_target_positions
    vocabulary, languages = vocabulary_of(model, tokenizer, direction)
    graphs = {
        ENCODER: encoder_graph(model, extractor, precision),
        CROSS_ATTENTION: cross_attention_graph(decoder, precision),
        DECODER: decoder_graph(decoder, precision),
    }
    attention = model.model.decoder.layers[0].self_attn
    described = {
        "arch": WHISPER,
        "precision": precision,
        "sample_rate": extractor.sampling_rate,
        "shortest_samples": extractor.n_fft,
        "longest_seconds": extractor.chunk_length,
        "lengths": vars(Lengths(extractor.chunk_length, extractor.chunk_length)),
        "longest_words": positions,
        "decoder": {"layers": len(model.model.decoder.layers), "heads": attention.num_heads, "head_width": attention.head_dim},
        "has_ctc": False,
        "settings": search_settings(settings, positions, _prompt_length(languages, vocabulary["begin"])),
        "not_followed": not_followed(settings),
        "vocabulary": vocabulary,
        "languages": asdict(languages),
        "timestamps": timestamps_of(settings, model.config.vocab_size),
        "fallback": fallback_of(settings),
    }
    reference = _Reference(model, extractor, tokenizer, bool(languages.detected))
    return write_folder(output, graphs, described, partial(check_against, reference, audio))


def _prompt_length(languages: Languages, begin: list[int]) -> int:
    """Length of the prompt: start word, words for language and task if the model has them, and initial words of every text."""
    return 1 + sum(max(map(len, table.values()), default=0) for table in (languages.sources, languages.tasks)) + len(begin)


class _Reference:
    """The source model for `check_against`."""

    def __init__(self, model: WhisperForConditionalGeneration, extractor, tokenizer, is_told: bool):
        self._model, self._extractor, self._tokenizer = model, extractor, tokenizer
        self._is_told = is_told

    def encode(self, samples: np.ndarray) -> np.ndarray:
        inputs = self._extractor(samples, sampling_rate=self._extractor.sampling_rate, return_tensors="pt").input_features
        self._encoded = self._model.get_encoder()(inputs)
        return self._encoded[0].numpy()

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        words = torch.tensor([tokens])
        return self._model(encoder_outputs=self._encoded, decoder_input_ids=words).logits[0, -1].log_softmax(-1).numpy()

    def greedy(self, direction: Direction, most: int) -> Greedy:
        told = {"language": direction.source_lang, "task": direction.task} if self._is_told else {}
        generate_kwargs = {name: value for name, value in told.items() if value is not None}
        (words,), prompt = greedy_words(self._model, {"encoder_outputs": self._encoded}, most, (), **generate_kwargs)
        words = words.tolist()
        return Greedy(words[:prompt], words[prompt:], self._tokenizer.decode(words[prompt:], skip_special_tokens=True))
