"""Tasks and languages that may be requested from a model."""

from dataclasses import replace

import pytest

from residual_st.errors import InputError
from residual_st.languages import Direction, Languages

SOURCES = {"en": [10], "es": [11], "fr": [12]}
NAMES = {"english": "en", "spanish": "es", "castilian": "es"}
WHISPER = Languages({"transcribe": [20], "translate": [21]}, SOURCES, {"en": []}, NAMES, Direction("transcribe", "auto"))
ENGLISH = Languages({"transcribe": []}, {"en": []}, {}, {"english": "en"}, Direction("transcribe", "en"))
SPANISH = replace(WHISPER, default=Direction("transcribe", "es"))
INTO_ENGLISH = replace(WHISPER, default=Direction("translate", "es", "en"))
SEVERAL = Languages(targets={"de": [5], "zh-CN": [6]})
INTO_GERMAN = Languages(targets={"de": [5], "zh-CN": [6]}, default=Direction(target_lang="de"))


@pytest.mark.parametrize(
    "languages, requested, resolved, words",
    [
        (WHISPER, {}, ("transcribe", "auto", None), None),
        (WHISPER, {"source_lang": "es"}, ("transcribe", "es", None), [11, 20]),
        (WHISPER, {"source_lang": "Castilian", "task": "translate"}, ("translate", "es", "en"), [11, 21]),
        (WHISPER, {"source_lang": "<|fr|>", "target_lang": "English"}, ("translate", "fr", "en"), [12, 21]),
        (WHISPER, {"source_lang": "es", "target_lang": "spanish"}, ("transcribe", "es", None), [11, 20]),
        (WHISPER, {"source_lang": "en", "target_lang": "en", "task": "translate"}, ("translate", "en", "en"), [10, 21]),
        (WHISPER, {"source_lang": "AUTO", "target_lang": "en"}, ("translate", "auto", "en"), None),
        (SPANISH, {"task": "translate"}, ("translate", "es", "en"), [11, 21]),
        (INTO_ENGLISH, {}, ("translate", "es", "en"), [11, 21]),
        (INTO_ENGLISH, {"task": "transcribe", "source_lang": "fr"}, ("transcribe", "fr", None), [12, 20]),
        (INTO_ENGLISH, {"target_lang": "es"}, ("transcribe", "es", None), [11, 20]),
        (ENGLISH, {}, ("transcribe", "en", None), []),
        (ENGLISH, {"source_lang": "auto", "task": "transcribe", "target_lang": "en"}, ("transcribe", "en", None), []),
        (SEVERAL, {"target_lang": "zh-CN"}, (None, None, "zh-CN"), [6]),
        (INTO_GERMAN, {}, (None, None, "de"), [5]),
        (Languages(), {}, (None, None, None), []),
    ],
)
def test_requested_direction_is_resolved(languages, requested, resolved, words):
    direction = languages.resolved(Direction(**requested))
    assert direction == Direction(*resolved)
    if words is not None:
        assert languages.words(direction) == words


@pytest.mark.parametrize(
    "languages, requested, sentence",
    [
        (WHISPER, {"source_lang": "xx"}, "source_lang=xx is not supported by this model; it must be one of auto, en, es, fr"),
        (WHISPER, {"task": "translate", "target_lang": "de"}, "target_lang=de is not supported by this model; it must be en"),
        (WHISPER, {"target_lang": "es"}, "target_lang=es is not supported by this model; it must be en"),
        (WHISPER, {"task": "sing"}, "task=sing is not supported by this model; it must be one of transcribe, translate"),
        (
            WHISPER,
            {"task": "transcribe", "source_lang": "es", "target_lang": "en"},
            "target_lang=en must equal source_lang=es: a transcript is in the spoken language",
        ),
        (ENGLISH, {"task": "translate"}, "task=translate is not supported by this model; it must be transcribe"),
        (ENGLISH, {"target_lang": "fr"}, "target_lang=fr must equal source_lang=en: a transcript is in the spoken language"),
        (SEVERAL, {}, "target_lang is missing; it must be one of de, zh-CN"),
        (SEVERAL, {"target_lang": "it"}, "target_lang=it is not supported by this model; it must be one of de, zh-CN"),
        (SEVERAL, {"target_lang": "de", "task": "translate"}, "task=translate: the model has one task, so task must not be given"),
        (Languages(), {"target_lang": "de"}, "target_lang=de: the model has one target language, so target_lang must not be given"),
        (Languages(), {"source_lang": "de"}, "source_lang=de: the model has one source language, so source_lang must not be given"),
    ],
)
def test_unsupported_direction_is_refused_in_one_sentence(languages, requested, sentence):
    with pytest.raises(InputError) as refused:
        languages.resolved(Direction(**requested))
    assert str(refused.value) == sentence
