"""What generate and the tokenizer of a Whisper's folder make of words, as the device runtime does it."""

from pathlib import Path

import numpy as np

from residual_st.errors import InputError, refusing
from residual_st.huggingface.languages import whisper_languages
from residual_st.languages import Direction, Languages
from residual_st.runtime.vocabulary import Vocabulary

# transformers comes behind residual_st.huggingface, which hides a torchaudio that does not load
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, WhisperForConditionalGeneration  # isort: skip

_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either has all words
# what a tokenizer with clean_up_tokenization_spaces does to a text, in releases of transformers that do it to words of bytes
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
    """Raises InputError where the folder has none, from which transformers would make one that knows no words."""
    if not any(all((Path(source) / name).is_file() for name in names) for names in _TOKENIZERS):
        either = " or ".join(" and ".join(names) for names in _TOKENIZERS)
        raise InputError(f"{source} has no {either}, so its words are unknown; copy them from the model that was fine-tuned")
    with refusing(f"the tokenizer in {source} cannot be read"):
        return AutoTokenizer.from_pretrained(source)


def vocabulary_of(
    model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, asked: Direction
) -> tuple[dict, Languages]:
    """What `runtime.vocabulary.Vocabulary` takes, and what the model does, as `whisper_languages` has it.

    Raises:
        InputError: if the tokenizer lacks words, or joins them in a way that the runtime does not know; or as `whisper_languages`.
    """
    settings, size = model.generation_config, model.config.vocab_size
    eos, *others = np.atleast_1d(settings.eos_token_id).tolist()
    if others:
        raise InputError(f"generation_config.json has several tokens that end a text, {[eos, *others]}; the runtime knows one")
    symbols = _symbols(tokenizer, size, eos)
    languages, begin = whisper_languages(model, symbols.__getitem__, asked)
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
        raise InputError(f"the tokenizer does not know word {missing[0]}, which the model can write; it is of another model")
    return [symbol or "" for symbol in symbols]  # behind the last one the tokenizer writes nothing


def _hidden(tokenizer: PreTrainedTokenizerBase, size: int) -> list[int]:
    """Words that a text is written without, such as tags of languages and time stamps; added words may be among them or not."""
    return [number for number in tokenizer.added_tokens_decoder if number < size and not _decoded(tokenizer, [number])]


def _decoded(tokenizer: PreTrainedTokenizerBase, words: list[int]) -> str:
    return tokenizer.decode(words, skip_special_tokens=True)


def _check(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    draw = np.random.default_rng(1)
    texts = [draw.integers(len(vocabulary.symbols), size=20).tolist() for _ in range(50)]
    for words in [*texts, *([0, added, 0] for added in tokenizer.added_tokens_decoder if added < len(vocabulary.symbols))]:
        words = [vocabulary.eos, *words]  # so that none is a prompt, which Whisper's tokenizer leaves out
        if vocabulary.text(words) != _decoded(tokenizer, words).strip(" "):
            raise InputError(f"the tokenizer joins words as the runtime cannot: {_decoded(tokenizer, words)!r} of {words}")


def search_settings(settings: GenerationConfig, positions: int, prompt: int) -> dict:
    """generate's settings by the names of `runtime.Settings`; those that it does not set are not there.

    Args:
        positions: that the decoder has.
        prompt: words before a text.
    """
    given = settings.to_diff_dict()
    found = {"max_len_b": settings.max_new_tokens or given.get("max_length") or positions}
    found["min_len"] = max(settings.min_new_tokens or 0, (settings.min_length or 0) - prompt, 0)
    found["early_stopping"] = settings.early_stopping is True
    names = {"num_beams": "beam", "length_penalty": "lenpen"}
    return found | {names[name]: given[name] for name in names if given.get(name) is not None}


def not_followed(settings: GenerationConfig) -> dict:
    """Settings that change generate's texts, and not the runtime's."""
    ignored = _FOLLOWED | _WITHOUT_INFLUENCE | (set() if settings.do_sample else _OF_SAMPLING)
    if isinstance(settings.early_stopping, (bool, type(None))):
        ignored |= {"early_stopping"}
    # 0, 1 and nothing are what all of the others are where they do nothing
    return {
        name: value
        for name, value in settings.to_diff_dict().items()
        if name not in ignored and value and (value is True or value != 1)
    }
