"""Folders that earlier releases exported, as this one would describe them."""

from residual_st.languages import AUTO


def updated(description: dict) -> dict:
    """model.json of format 1 or 2: its languages stood in the vocabulary, and time stamps were not used.

    Whisper's languages were those that are spoken, with the folder's task in `begin`; fairseq's, those that are translated into.
    """
    vocabulary = dict(description["vocabulary"])
    table = {name: [word] for name, word in vocabulary.pop("languages", {}).items()}
    own = vocabulary.pop("default", None)
    if not vocabulary.get("prompted", False):
        languages = {"targets": table}
    elif table:
        spoken = next((name for name, words in table.items() if words[0] in (own or ())), AUTO)
        languages = {"sources": table, "default": {"source_lang": spoken}}
    else:
        languages = {}
        vocabulary["begin"] = own or vocabulary["begin"]
    return {**description, "vocabulary": vocabulary, "languages": languages}
