"""English test sets of a corpus in MuST-C's layout, and the word errors of Whisper's transcripts."""

from pathlib import Path

import editdistance
import numpy as np
import torch
import yaml

from residual_st.audio.reading import read_audio
from residual_st.files import read_lines
from residual_st.huggingface.generation import greedy_words

RATE = 16_000
TEST_SETS = ("tst-COMMON", "tst-HE")
MOST_WORDS = 100  # in a transcript
LOOP_WORDS = 10  # a transcript is a repetition loop if it has more than twice the words of the reference + 10


def utterances(corpus: Path, test_sets: tuple[str, ...] = TEST_SETS) -> list[tuple[np.ndarray, str]]:
    """Audio at 16 kHz and text of the test sets."""
    pairs = []
    for name in test_sets:
        text = read_lines(corpus / "data" / name / "txt" / f"{name}.en")
        rows = yaml.safe_load((corpus / "data" / name / "txt" / f"{name}.yaml").read_text(encoding="utf-8"))
        recordings = {}
        for row, line in zip(rows, text, strict=True):
            if row["wav"] not in recordings:
                recordings[row["wav"]] = read_audio(corpus / "data" / name / "wav" / row["wav"], RATE)
            start, length = round(row["offset"] * RATE), round(row["duration"] * RATE)
            pairs.append((recordings[row["wav"]][start : start + length], line))
    return pairs


class InTransformers:
    """Whisper in torch, with greedy search and the model's prompt.

    Args:
        model: of `residual_st.huggingface.load`.
        folder: its folder, or that of another Whisper, for feature extractor and tokenizer.
    """

    def __init__(self, model: torch.nn.Module, folder: Path):
        import transformers  # after residual_st.huggingface, which hides a torchaudio that fails to load

        self.model = model
        self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def features(self, utterances: list[np.ndarray]) -> torch.Tensor:
        return self.extractor(utterances, sampling_rate=RATE, return_tensors="pt").input_features

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> None:
        self.model.get_encoder()(self.features([samples]))

    def transcribe(self, samples: np.ndarray) -> str:
        return self.transcribe_all([samples])[0]

    def transcribe_all(self, utterances: list[np.ndarray]) -> list[str]:
        words, _ = greedy_words(self.model, {"input_features": self.features(utterances)}, MOST_WORDS)
        return self.tokenizer.batch_decode(words, skip_special_tokens=True)


def word_errors(references: list[str], transcripts: list[str]) -> dict:
    """Word errors after the normalisation of Whisper's authors, at most as many per utterance as its reference has words.

    Otherwise scores would depend on where a repetition loop is cut off. `runaways` is the number of these
    utterances, `wer` the rate over all.
    """
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer  # after residual_st.huggingface

    normalize = EnglishTextNormalizer({})
    errors, words, loops = [], [], 0
    for text, transcript in zip(references, transcripts, strict=True):
        reference, hypothesis = normalize(text).split(), normalize(transcript).split()
        errors.append(min(editdistance.eval(hypothesis, reference), len(reference)))
        words.append(len(reference))
        loops += len(hypothesis) > 2 * len(reference) + LOOP_WORDS
    return {"wer": round(100 * sum(errors) / sum(words), 3), "runaways": loops, "errors": errors, "words": words}
