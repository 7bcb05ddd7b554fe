"""Printing of text in any language, whatever the encoding of the terminal or the locale."""

import codecs
import io
import json
import os
import sys


def print_any_text() -> None:
    """Make standard output and error accept every character.

    A terminal keeps its encoding. A file or a pipe gets UTF-8, as from git and ripgrep, whatever the locale; PYTHONIOENCODING
    overrides this. A character that the encoding lacks is written as a JSON escape such as `\\u00e4`, so that `--json` output
    stays JSON. Undecodable bytes in file names are escaped the same way.
    """
    codecs.register_error("json", _as_json)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_chosen = stream.isatty() or os.environ.get("PYTHONIOENCODING")
            stream.reconfigure(encoding=None if is_chosen else "utf-8", errors="json")


def _as_json(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end
