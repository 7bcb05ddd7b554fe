"""What our commands print: text of any language, whatever encoding the terminal or the locale has."""

import codecs
import io
import json
import os
import sys


def print_any_text() -> None:
    """Let standard output and error take every character, from now on.

    A terminal keeps its encoding. A file or a pipe gets UTF-8, as from git and ripgrep, whatever the locale says; PYTHONIOENCODING
    chooses another. A character that the encoding lacks is written as in JSON, such as `\\u00e4`, so that the output of `--json`
    stays JSON, and so is a byte of a file's name that is no text.
    """
    codecs.register_error("json", _as_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_chosen = stream.isatty() or os.environ.get("PYTHONIOENCODING")
            stream.reconfigure(encoding=None if is_chosen else "utf-8", errors="json")


def _as_json(error: UnicodeEncodeError) -> tuple[str, int]:
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
