"""Phrases that a reader of English stumbles over stay out of code, help, messages and documents.

Each phrase has a plain one of the field in its place, which a failure shows.
"""

import re
import subprocess

import pytest
from conftest import ROOT

SUFFIXES = {".py", ".md", ".js", ".html", ".j2", ".yaml", ".sh", ".css"}
# not matched: the names of systems and the column `runaways` in committed results, and names of earlier releases
PHRASES = {
    r"allowed are": "must be one of",
    r"goes on": "continues, resumes",
    r"(?<!\.)mend(ed|ing|s)?": "fix, patch",
    r"foretold": "predicted",
    r"at hand": "available",
    r"(?<!-)(?<!compressed and )taught(?!\|)": "distilled",
    r"rivals?(?!\.jsonl|\.py)": "baseline",
    r"strangers['’] files": "untrusted files",
    r"ends of (the )?branches": "output projections (`out_proj`, `fc2`)",
    r"(?<![\"`])runaways?": "repetition loop",
    r"heard": "transcribed, detected",
    r"nothing moved by gradient": "without fine-tuning",
    r"bears more": "tolerates higher learning rates",
    r"takes both as long": "takes equally long",
    r"begins as residual ones do": "initialised like the residual models",
    r"nothing to expand in": "is already dense",
    r"time stamps?": "timestamp",
    r"held out by": "held-out",
    r"per cent sign": "percent sign",
}
PATTERNS = {re.compile(rf"(?<![\w]){phrase}(?![\w])", re.IGNORECASE): plain for phrase, plain in PHRASES.items()}


def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).suffix in SUFFIXES and name != "tests/test_words.py"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_plain_words():
    found = []
    for name in files():
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
            for pattern, plain in PATTERNS.items():
                if match := pattern.search(line):
                    found.append(f"{name}:{number}: {match[0]!r}, write: {plain}")
    assert not found, "\n".join(found)
