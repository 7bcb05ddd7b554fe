"""Export of Hugging Face folders of wav2vec 2.0 and HuBERT with a CTC head, dense or compressed."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from residual_st.audio.lengths import DEFAULT
from residual_st.errors import InputError, refusing
from residual_st.export.check import LARGEST, Differences, utterances
from residual_st.export.folder import write_folder
from residual_st.export.wav2vec2 import encoder_graph, shortest_samples
from residual_st.export.whisper_words import CLEANED
from residual_st.huggingface import feature_extractor, load
from residual_st.languages import Direction, Languages
from residual_st.runtime.ctc import best_path
from residual_st.runtime.folder import ENCODER
from residual_st.runtime.model import Model
from residual_st.runtime.vocabulary import Vocabulary

# import transformers after residual_st.huggingface, which hides a torchaudio that does not load
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, Wav2Vec2FeatureExtractor  # isort: skip

MODELS = ("Wav2Vec2ForCTC", "HubertForCTC")
LONGEST_SECONDS = 60.0  # maximum length of an utterance: the first convolution's output takes 6.5 MB per second


def export_ctc(
    source: str | Path,
    output: Path,
    precision: str = "fp32",
    audio: Sequence[Path] = (),
    direction: Direction = Direction(),  # noqa: B008 - frozen
) -> dict:
    """Export such a model as a folder for `residual_st.runtime`, and check it against the model.

    Args:
        source: a Hugging Face folder of one of `MODELS`, dense or compressed by `residual-st compress`.
        output, precision, audio, direction: see `export_checkpoint`.

    Raises:
        InputError: if the folder cannot be read or has no tokenizer, the model has unsupported parts, or a task or language is
            given, of which these models have one.
    """
    Languages().resolved(direction)
    model, extractor = load(source).float(), feature_extractor(source, Wav2Vec2FeatureExtractor)
    tokenizer = _read_tokenizer(source)
    vocabulary = vocabulary_of(model, tokenizer)
    described = {
        "arch": model.config.model_type,
        "precision": precision,
        "sample_rate": extractor.sampling_rate,
        "shortest_samples": shortest_samples(model),
        "longest_seconds": LONGEST_SECONDS,
        "lengths": vars(DEFAULT),
        "decoder": None,
        "has_ctc": True,
        "settings": {"beam": 1},
        "languages": {},
        "vocabulary": vocabulary,
    }
    graphs = {ENCODER: encoder_graph(model, extractor, precision)}
    return write_folder(output, graphs, described, partial(_check, model, extractor, tokenizer, audio))


def vocabulary_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Arguments of `runtime.vocabulary.Vocabulary`. The blank takes the place of the end symbol, since no text contains it.

    Raises:
        InputError: if the tokenizer joins symbols in a way that the runtime does not support.
    """
    blank, size = model.config.pad_token_id, model.config.vocab_size
    symbols = [symbol or "" for symbol in tokenizer.convert_ids_to_tokens(list(range(size)))]
    space = getattr(tokenizer, "word_delimiter_token", None)
    is_lower = getattr(tokenizer, "do_lower_case", False)
    if is_lower:
        symbols = [symbol if symbol == space else symbol.lower() for symbol in symbols]
    described = {
        "symbols": ["▁" if symbol == space else symbol for symbol in symbols],
        "pieces": "sentencepiece",
        "start": blank,
        "begin": [],
        "eos": blank,
        "pad": None,
        "unk": None,
        "hidden": [blank],
        "replaced": CLEANED if getattr(tokenizer, "clean_up_tokenization_spaces", False) else [],
    }
    vocabulary, draw = Vocabulary(**described), np.random.default_rng(1)
    for _ in range(50):
        best = draw.integers(size, size=20).repeat(draw.integers(1, 3, size=20))
        written, joined = _decoded(tokenizer, best), vocabulary.text(_collapsed(best, blank))
        if joined != written:
            raise InputError(
                f"the runtime does not support this tokenizer: it writes {written!r} for {best.tolist()}, not {joined!r}"
            )
    return described


def _check(
    model: PreTrainedModel, extractor, tokenizer: PreTrainedTokenizerBase, audio: Sequence[Path], folder: Path
) -> Differences:
    """Compare a folder with the model, one utterance at a time.

    Raises:
        InputError: if audio cannot be read, or the graph in fp32 has different results.
    """
    exported, (states, log_probs, seconds) = Model(folder), (0.0, 0.0, 0.0)
    for samples in utterances(audio, extractor.sampling_rate):
        seconds += len(samples) / extractor.sampling_rate
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with torch.no_grad():
            expected = model.base_model(**inputs).last_hidden_state
            scores = model(**inputs).logits.log_softmax(-1).numpy()
        outputs = exported.encode([samples])
        states = max(states, float(np.abs(outputs["states"] - expected.numpy()).max()))
        log_probs = max(log_probs, float(np.abs(outputs["ctc_log_probs"] - scores).max()))
        text = exported.vocabulary.text(best_path(scores[0], exported.vocabulary.eos).tokens)
        if text != _decoded(tokenizer, scores[0].argmax(-1)):
            raise InputError(
                f"the folder's text {text!r} differs from the tokenizer's {_decoded(tokenizer, scores[0].argmax(-1))!r}"
            )
    if exported.folder.description["precision"] == "fp32" and not max(states, log_probs) <= LARGEST:
        raise InputError(f"the graph differs from the model: states by {states:.2g}, log-probabilities by {log_probs:.2g}")
    return Differences(states, log_probs, round(seconds, 1))


def _read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    if not (Path(source) / "vocab.json").is_file():
        raise InputError(f"{source} has no vocab.json, so its symbols are unknown; copy it from the model that was fine-tuned")
    with refusing(f"the tokenizer in {source} cannot be read"):
        return AutoTokenizer.from_pretrained(source)


def _decoded(tokenizer: PreTrainedTokenizerBase, best: np.ndarray) -> str:
    (text,) = tokenizer.batch_decode([best.tolist()])
    return text.strip(" ")  # skip_special_tokens would remove the blank between two equal letters


def _collapsed(best: np.ndarray, blank: int) -> list[int]:
    return best_path(np.eye(best.max() + 1)[best], blank).tokens
