"""Tasks, languages and time stamps of a Whisper's folder, as generate reads them, for the device runtime."""

from dataclasses import replace

from residual_st.huggingface.generation import prompt_of
from residual_st.runtime.languages import AUTO, TRANSCRIBE, TRANSLATE, Direction, Languages

# transformers comes behind residual_st.huggingface, which hides a torchaudio that does not load
from transformers import GenerationConfig, WhisperForConditionalGeneration  # isort: skip
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE  # isort: skip

ENGLISH = "en"  # which Whisper translates into
# what Whisper's authors, and the documentation of transformers' generate, give where a folder sets nothing
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_THRESHOLDS = {"compression_ratio": ("compression_ratio_threshold", 1.35), "log_prob": ("logprob_threshold", -1.0)}
_THRESHOLDS["no_speech"] = ("no_speech_threshold", 0.6)
_SECONDS = 0.02  # between two time stamps, generate's `time_precision`


def languages_of(model: WhisperForConditionalGeneration, symbols: list[str], asked: Direction) -> tuple[Languages, list[int]]:
    """What a model does, and the words that its texts begin with behind those that ask for it.

    Args:
        symbols: its words, for the tags in the prompt of a model of one language.
        asked: what it shall do where nothing is asked for; the rest is what the folder sets, or else to detect the language and to
            transcribe, as Whisper's authors have it.

    Raises:
        InputError: if generate cannot use the folder's settings, or the model cannot do what is asked.
    """
    settings, own = model.generation_config, prompt_of(model)
    if getattr(settings, "lang_to_id", None) and getattr(settings, "is_multilingual", True):
        sources = {tag.strip("<|>"): number for tag, number in settings.lang_to_id.items()}
        _, _, *rest = prompt_of(model, language=next(iter(sources)))
        tasks = getattr(settings, "task_to_id", None) or {}
        begin = [word for word in rest if word not in tasks.values()]
        source = _name_of(sources, own) if own else AUTO
        default = Direction(_name_of(tasks, own or []) or _name_of(tasks, rest), source)
        tables = {"sources": _words(sources), "tasks": _words(tasks)}
    else:
        begin = (own or [])[1:]
        tags = [symbols[word].strip("<|>") for word in begin]
        source = next((tag for tag in tags if tag in TO_LANGUAGE_CODE.values()), ENGLISH)
        task = TRANSLATE if TRANSLATE in tags else TRANSCRIBE
        default = Direction(task, source)
        tables = {"sources": {source: []}, "tasks": {task: []}}
    if TRANSLATE in tables["tasks"]:
        tables["targets"] = {ENGLISH: []}
    names = {name: code for name, code in TO_LANGUAGE_CODE.items() if code in tables["sources"]}
    languages = Languages(**tables, names=names, default=default)
    return replace(languages, default=languages.resolved(asked)), begin


def _words(numbers: dict[str, int]) -> dict[str, list[int]]:
    return {name: [number] for name, number in numbers.items()}


def _name_of(numbers: dict[str, int], prompt: list[int]) -> str | None:
    return next((name for name, number in numbers.items() if number in prompt), None)


def timestamps_of(settings: GenerationConfig, size: int) -> dict | None:
    """What `runtime.timestamps.TimeStamps` takes; None where generate refuses to return time stamps, or there are no such words."""
    none = getattr(settings, "no_timestamps_token_id", None)
    if none is None or none + 1 >= size:
        return None
    latest = getattr(settings, "max_initial_timestamp_index", None)
    return {"none": none, "first": none + 1, "seconds": _SECONDS, "latest_start": latest, "silence": none - 1}


def fallback_of(settings: GenerationConfig) -> dict:
    """What `runtime.fallback.Fallback` takes: the folder's thresholds, or its authors'."""
    found = {name: getattr(settings, theirs, None) for name, (theirs, _) in _THRESHOLDS.items()}
    thresholds = {name: default if found[name] is None else found[name] for name, (_, default) in _THRESHOLDS.items()}
    return {"temperatures": _TEMPERATURES, **thresholds}
