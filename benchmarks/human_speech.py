"""Test sets of a corpus in MuST-C's layout, in English, and the word errors of Whisper's transcripts of them."""

from pathlib import Path

import editdistance
import numpy as np
import yaml

from residual_st.audio import read_audio

RATE = 16_000
TEST_SETS = ("tst-COMMON", "tst-HE")
MOST_WORDS = 100  # of a transcript
RUNAWAY = 10  # words more than twice the reference


def utterances(corpus: Path, test_sets: tuple[str, ...] = TEST_SETS) -> list[tuple[np.ndarray, str]]:
    """Audio at 16 kHz and text of the test sets."""
    found = []
    for name in test_sets:
        text = (corpus / "data" / name / "txt" / f"{name}.en").read_text(encoding="utf-8").splitlines()
        rows = yaml.safe_load((corpus / "data" / name / "txt" / f"{name}.yaml").read_text(encoding="utf-8"))
        recordings = {}
        for row, line in zip(rows, text, strict=True):
            if row["wav"] not in recordings:
                recordings[row["wav"]] = read_audio(corpus / "data" / name / "wav" / row["wav"], RATE)
            start, length = round(row["offset"] * RATE), round(row["duration"] * RATE)
            found.append((recordings[row["wav"]][start : start + length], line))
    return found


def word_errors(references: list[str], transcripts: list[str]) -> dict:
    """In the normalised form of Whisper's authors, an utterance counted wrong at most once per word of its reference.

    A model that repeats itself without end would otherwise decide the score by where it is stopped. `runaways` counts these
    utterances, `wer` is the rate of all.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # behind residual_st.transformers

    normalize = EnglishTextNormalizer({})
    errors, words, runaways = [], [], 0
    for text, transcript in zip(references, transcripts, strict=True):
        reference, hypothesis = normalize(text).split(), normalize(transcript).split()
        errors.append(min(editdistance.eval(hypothesis, reference), len(reference)))
        words.append(len(reference))
        runaways += len(hypothesis) > 2 * len(reference) + RUNAWAY
    return {"wer": round(100 * sum(errors) / sum(words), 3), "runaways": runaways, "errors": errors, "words": words}
