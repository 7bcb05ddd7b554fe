"""Printing in any encoding."""

import os
import subprocess
import sys

import pytest

PRINT = f"from residual_st.printing import print_any_text; print_any_text(); print({'Größe λ'!a}, end='')"


@pytest.mark.parametrize(
    ("environment", "printed"),
    [
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "Größe λ".encode()),  # a pipe, in any locale
        ({"PYTHONIOENCODING": "cp1252"}, "Größe ".encode("cp1252") + rb"\u03bb"),
        ({"PYTHONIOENCODING": "ascii"}, rb"Gr\u00f6\u00dfe \u03bb"),
    ],
)
def test_unencodable_characters_are_escaped(environment, printed):
    environment = {**{name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}, **environment}
    assert subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, check=True).stdout == printed


def test_help_is_printed_in_every_encoding():
    command = [sys.executable, "-m", "residual_st", "report", "--help"]
    result = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True)
    assert result.returncode == 0, result.stderr
