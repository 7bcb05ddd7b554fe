"""Folders exported by earlier releases, converted to the current format."""

from typing import Any

from residual_st.languages import AUTO


def updated(description: dict[str, Any]) -> dict[str, Any]:
    """model.json of format 1 or 2 in the current format. Those had languages in the vocabulary, and no timestamps.

    Whisper's languages were source languages, with the folder's task in `begin`; fairseq's were target languages.
    """
    vocabulary = dict(description["vocabulary"])
    table = {name: [word] for name, word in vocabulary.pop("languages", {}).items()}
    default = vocabulary.pop("default", None)
    languages: dict[str, object] = {}
    if not vocabulary.get("prompted", False):
        languages = {"targets": table}
    elif table:
        spoken = next((name for name, words in table.items() if words[0] in (default or ())), AUTO)
        languages = {"sources": table, "default": {"source_lang": spoken}}
    else:
        vocabulary["begin"] = default or vocabulary["begin"]
    return {**description, "vocabulary": vocabulary, "languages": languages}
