"""Tasks and languages of a Hugging Face model, from its folder and transformers' generate."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import transformers

from residual_st.errors import refusing
from residual_st.huggingface.generation import language_tags, opening_of
from residual_st.huggingface.kinds import words_of
from residual_st.huggingface.quiet import quiet
from residual_st.huggingface.words import AudioBatch, DecodedWords
from residual_st.languages import AUTO, TRANSCRIBE, TRANSLATE, Direction, Languages

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE  # isort: skip

ENGLISH = "en"  # the only target language of Whisper


def languages_of(model: transformers.PreTrainedModel, folder: Path) -> Languages:
    """A model's tasks and languages, and its default direction.

    Raises:
        InputError: if generate cannot use the folder's settings.
    """
    if isinstance(model, transformers.WhisperForConditionalGeneration):
        return whisper_languages(model, lambda word: _tokenizer(folder).convert_ids_to_tokens([word])[0], Direction())[0]
    settings, own_words = model.generation_config if model.can_generate() else None, words_of(model)
    codes = getattr(settings, "text_decoder_lang_to_code_id", None)  # SeamlessM4T's
    if codes and isinstance(own_words, DecodedWords):
        return Languages(targets=_words(codes), default=Direction(target_lang=own_words.defaults["tgt_lang"]))
    if settings and model.config.model_type == "speech_to_text" and (targets := _target_words(folder)):
        forced = next((code for code, words in targets.items() if words == [settings.forced_bos_token_id]), None)
        return Languages(targets=targets, default=Direction(target_lang=forced))
    return Languages()


def generate_kwargs_of(model: transformers.PreTrainedModel, languages: Languages, direction: Direction) -> dict:
    """The arguments of generate for a direction, for `greedy_words`."""
    if model.config.model_type == "whisper":
        return {"language": direction.source_lang, "task": direction.task} if languages.detected else {}
    if model.config.model_type == "speech_to_text" and direction.target_lang is not None:
        return {"forced_bos_token_id": languages.targets[direction.target_lang][0]}
    return {"tgt_lang": direction.target_lang} if languages.targets else {}


def directions_of(languages: Languages, batches: Iterable[AudioBatch]) -> list[dict]:
    """The directions of calibration batches, from their prompts, with the number of utterances of each."""
    tables = {"source_lang": languages.sources, "task": languages.tasks, "target_lang": languages.targets}
    counts = Counter(
        tuple((what, name) for what, table in tables.items() if (name := _selected_in(prompt, table)))
        for batch in batches
        for prompt in batch.words[:, : batch.prompt].tolist()
    )
    return [{**dict(direction), "utterances": count} for direction, count in counts.items() if direction]


def _selected_in(prompt: list[int], table: dict[str, list[int]]) -> str | None:
    return next((name for name, words in table.items() if words and words[0] in prompt), None)


def whisper_languages(
    model: transformers.WhisperForConditionalGeneration, symbol_of: Callable[[int], str], direction: Direction
) -> tuple[Languages, list[int]]:
    """A Whisper model's tasks and languages, and the words that its texts begin with after the prompt words.

    Args:
        symbol_of: its words, to read the tags in the prompt of a model with one language.
        direction: the default direction; what it leaves open is set by the folder, or else the language is detected and
            transcribed, the default of Whisper's authors.

    Raises:
        InputError: if generate cannot use the folder's settings, or the model does not have the direction.
    """
    settings = model.generation_config
    prompt, is_detected = opening_of(model)
    if language_tags(model) and getattr(settings, "is_multilingual", True):
        sources = {tag.strip("<|>"): number for tag, number in language_tags(model).items()}
        (_, _, *rest), _ = opening_of(model, language=next(iter(sources)))
        tasks = getattr(settings, "task_to_id", None) or {}
        begin = [word for word in rest if word not in tasks.values()]
        source = AUTO if is_detected else _name_of(sources, prompt)
        default = Direction(_name_of(tasks, prompt) or _name_of(tasks, rest), source)
        tables = {"sources": _words(sources), "tasks": _words(tasks)}
    else:
        begin = [] if is_detected else prompt[1:]
        tags = [symbol_of(word).strip("<|>") for word in begin]
        source = next((tag for tag in tags if tag in TO_LANGUAGE_CODE.values()), ENGLISH)
        task = TRANSLATE if TRANSLATE in tags else TRANSCRIBE
        default = Direction(task, source)
        tables = {"sources": {source: []}, "tasks": {task: []}}
    if TRANSLATE in tables["tasks"]:
        tables["targets"] = {ENGLISH: []}
    names = {name: code for name, code in TO_LANGUAGE_CODE.items() if code in tables["sources"]}
    languages = Languages(**tables, names=names, default=default)
    return replace(languages, default=languages.resolved(direction)), begin


def _words(numbers: dict[str, int]) -> dict[str, list[int]]:
    return {name: [number] for name, number in numbers.items()}


def _name_of(numbers: dict[str, int], prompt: list[int]) -> str | None:
    return next((name for name, number in numbers.items() if number in prompt), None)


def _target_words(folder: Path) -> dict[str, list[int]]:
    if not (folder / "vocab.json").is_file():
        return {}
    return {code: [word] for code, word in getattr(_tokenizer(folder), "lang_code_to_id", {}).items()}


def _tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    with quiet(), refusing(f"the tokenizer in {folder} cannot be read"):
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
