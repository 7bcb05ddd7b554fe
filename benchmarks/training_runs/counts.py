"""Counts of sentences in rows of results: a few integers per sentence for scores and intervals, without texts."""

import numpy as np

from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import error_counts, ngram_counts
from residual_st.evaluation.units import Units

_KEPT = [0, 1, 2, 3, 8, 9]  # of `ngram_counts`; the numbers of n-grams follow from the length
_RIGHT = [f"right_{order}grams" for order in (1, 2, 3, 4)]
_COLUMNS = {
    "wer": ["errors", "words"],
    "ctc_wer": ["ctc_errors", "words"],
    "bleu": [*_RIGHT, "length", "reference_length"],
}


def counted(metric: str, sentences: list[Sentence], units: Units | None = None) -> dict[str, list[int]]:
    """Name -> a number per sentence, for a row of results. `units` may be characters instead of words.

    Args:
        metric: "wer", "ctc_wer" or "bleu".
    """
    counts = ngram_counts(sentences, units)[:, _KEPT] if metric == "bleu" else error_counts(sentences, units)
    return dict(zip(_COLUMNS[metric], counts.T.astype(int).tolist()))


def counts_of(row: dict, metric: str) -> np.ndarray | None:
    """The counts of each sentence, as from `error_counts` or `ngram_counts`. None if a row has none for this metric."""
    if not all(name in row for name in _COLUMNS[metric]):
        return None
    columns = np.array([row[name] for name in _COLUMNS[metric]], float).T
    if metric != "bleu":
        return columns
    right, lengths = columns[:, :4], columns[:, 4:]
    return np.hstack([right, np.maximum(lengths[:, :1] - np.arange(4), 0), lengths])
