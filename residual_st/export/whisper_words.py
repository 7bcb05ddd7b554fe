"""Vocabulary and search settings from a Whisper folder's tokenizer and generation settings, for the device runtime."""

from pathlib import Path

import numpy as np

from residual_st.errors import InputError, refusing
from residual_st.huggingface.languages import whisper_languages
from residual_st.languages import Direction, Languages
from residual_st.runtime.vocabulary import Vocabulary

# import transformers after residual_st.huggingface, which hides a torchaudio that does not load
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, WhisperForConditionalGeneration  # isort: skip

_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either set contains all words
# replacements of a tokenizer with clean_up_tokenization_spaces, in releases of transformers that apply it to byte-level words
CLEANED = [
    [" .", "."], [" ?", "?"], [" !", "!"], [" ,", ","], [" ' ", "'"],
    [" n't", "n't"], [" 'm", "'m"], [" 's", "'s"], [" 've", "'ve"], [" 're", "'re"],
]  # fmt: skip
_FOLLOWED = {
    *("language", "task", "forced_decoder_ids", "is_multilingual", "lang_to_id", "task_to_id", "no_timestamps_token_id"),
    *("decoder_start_token_id", "eos_token_id", "suppress_tokens", "begin_suppress_tokens", "num_beams", "length_penalty"),
    *("max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_initial_timestamp_index"),
    *("compression_ratio_threshold", "logprob_threshold", "no_speech_threshold"),
}
_WITHOUT_INFLUENCE = {
    *("bos_token_id", "pad_token_id", "prev_sot_token_id", "alignment_heads"),
    *("median_filter_width", "use_cache", "cache_implementation", "cache_config", "output_attentions", "output_hidden_states"),
    *("output_scores", "output_logits", "return_dict_in_generate", "num_return_sequences", "compile_config", "disable_compile"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind"),
    *("target_lookbehind", "remove_invalid_values", "transformers_version", "_from_model_config"),
}
_OF_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}


def read_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises InputError if there is none, for which transformers would build one without words."""
    if not any(all((Path(source) / name).is_file() for name in names) for names in _TOKENIZERS):
        either = " or ".join(" and ".join(names) for names in _TOKENIZERS)
        raise InputError(f"{source} has no {either}, so its words are unknown; copy them from the model that was fine-tuned")
    with refusing(f"the tokenizer in {source} cannot be read"):
        return AutoTokenizer.from_pretrained(source)


def vocabulary_of(
    model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, direction: Direction
) -> tuple[dict, Languages]:
    """Arguments of `runtime.vocabulary.Vocabulary`, and the model's languages from `whisper_languages`.

    Raises:
        InputError: if the tokenizer lacks words, or joins them in a way that the runtime does not support; see also
            `whisper_languages`.
    """
    settings, size = model.generation_config, model.config.vocab_size
    eos, *others = np.atleast_1d(settings.eos_token_id).tolist()
    if others:
        raise InputError(f"generation_config.json has several end tokens, {[eos, *others]}; the runtime supports one")
    symbols = _symbols(tokenizer, size, eos)
    languages, begin = whisper_languages(model, symbols.__getitem__, direction)
    described = {
        "symbols": symbols,
        "pieces": "bytes",
        "start": settings.decoder_start_token_id,
        "begin": begin,
        "eos": eos,
        "pad": None,
        "unk": None,
        "hidden": _hidden(tokenizer, size),
        "prompted": True,
        "suppressed": [word for word in settings.suppress_tokens or [] if 0 <= word < size],
        "begin_suppressed": [word for word in settings.begin_suppress_tokens or [] if 0 <= word < size],
        "replaced": CLEANED if _decoded(tokenizer, tokenizer.encode("a .", add_special_tokens=False)) == "a." else [],
    }
    _check(tokenizer, Vocabulary(**described))
    return described, languages


def _symbols(tokenizer: PreTrainedTokenizerBase, size: int, eos: int) -> list[str]:
    symbols = tokenizer.convert_ids_to_tokens(list(range(size)))
    missing = [number for number, symbol in enumerate(symbols[:eos]) if symbol is None]
    if missing:
        raise InputError(f"the tokenizer lacks word {missing[0]} of the model; copy the tokenizer of the model that was fine-tuned")
    return [symbol or "" for symbol in symbols]  # words after the tokenizer's last one are written as nothing


def _hidden(tokenizer: PreTrainedTokenizerBase, size: int) -> list[int]:
    """Words that are not part of the text, such as language tags and timestamps, and some added words."""
    return [number for number in tokenizer.added_tokens_decoder if number < size and not _decoded(tokenizer, [number])]


def _decoded(tokenizer: PreTrainedTokenizerBase, words: list[int]) -> str:
    (text,) = tokenizer.batch_decode([words], skip_special_tokens=True)
    return text


def _check(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    draw = np.random.default_rng(1)
    texts = [draw.integers(len(vocabulary.symbols), size=20).tolist() for _ in range(50)]
    for words in [*texts, *([0, added, 0] for added in tokenizer.added_tokens_decoder if added < len(vocabulary.symbols))]:
        words = [vocabulary.eos, *words]  # so that none looks like a prompt, which Whisper's tokenizer removes
        if vocabulary.text(words) != _decoded(tokenizer, words).strip(" "):
            raise InputError(f"the runtime does not support this tokenizer: it writes {_decoded(tokenizer, words)!r} for {words}")


def search_settings(settings: GenerationConfig, positions: int, prompt: int) -> dict:
    """generate's settings under the names of `runtime.Settings`, without those that it does not set.

    Args:
        positions: number of decoder positions.
        prompt: number of words before a text.
    """
    changed = settings.to_diff_dict()
    converted = {"max_len_b": settings.max_new_tokens or changed.get("max_length") or positions}
    converted["min_len"] = max(settings.min_new_tokens or 0, (settings.min_length or 0) - prompt, 0)
    converted["early_stopping"] = settings.early_stopping is True
    names = {"num_beams": "beam", "length_penalty": "lenpen"}
    return converted | {names[name]: changed[name] for name in names if changed.get(name) is not None}


def not_followed(settings: GenerationConfig) -> dict:
    """Settings that change generate's texts but are not supported by the runtime."""
    ignored = _FOLLOWED | _WITHOUT_INFLUENCE | (set() if settings.do_sample else _OF_SAMPLING)
    if isinstance(settings.early_stopping, (bool, type(None))):
        ignored |= {"early_stopping"}
    # all the other settings are inactive at 0, 1 or None
    return {
        name: value
        for name, value in settings.to_diff_dict().items()
        if name not in ignored and value and (value is True or value != 1)
    }
