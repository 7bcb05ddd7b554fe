"""Phrases that are not plain English are refused in code, tests, scripts, help, messages and documents.

A failure shows the plain phrase to use instead.
"""

import re
import subprocess

import pytest
from conftest import ROOT

SUFFIXES = {".py", ".md", ".js", ".html", ".j2", ".yaml", ".yml", ".toml", ".sh", ".css", ""}  # the last: .ci/run, Makefile
# not matched: the names of systems and the column `runaways` in committed results, and names of earlier releases
PHRASES = {
    r"allowed are": "must be one of",
    r"goes on": "continues, resumes",
    r"(?<!\.)mend(ed|ing|s)?": "fix, patch",
    r"foretold": "predicted",
    r"at hand": "available",
    r"(?<!-)(?<!compressed and )taught(?!\|)": "distilled",
    r"(?<!device_)rivals?(?!\.jsonl)": "baseline",
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
    r"not made again": "skipped",
    r"(ours|theirs)": "say what it is",
    r"beside one another": "compared, side by side",
    r"(that|what) (is|are) no(?! longer)": "is not a, is not part of",
}
# in prose and in names: `goes on`, `test_training_goes_on`
PATTERNS = {
    re.compile(rf"(?<![a-z0-9]){phrase.replace(' ', '[ _]')}(?![a-z0-9])", re.IGNORECASE): plain
    for phrase, plain in PHRASES.items()
}


def files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).suffix in SUFFIXES and name != "tests/test_words.py"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_plain_words():
    problems = []
    for name in files():
        text = (ROOT / name).read_text(encoding="utf-8")
        for pattern, plain in PATTERNS.items():
            for match in pattern.finditer(text):
                problems.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, write: {plain}")
    assert not problems, "\n".join(problems)
