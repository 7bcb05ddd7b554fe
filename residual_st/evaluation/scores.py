"""Error rates, BLEU and chrF with confidence intervals, from counts per sentence."""

from dataclasses import dataclass
from typing import Literal

import editdistance
import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.units import Units, units_of

RESAMPLES = 2000
_ORDERS = 4  # orders of BLEU's n-grams


def error_counts(sentences: list[Sentence], units: Units | None = None) -> np.ndarray:
    """Errors and reference length (sentences, 2), in words or characters, with punctuation and case.

    Args:
        units: units of the test set; None to derive them from these references.
    """
    units = units or _units(sentences)
    pairs = [(units.split(sentence.hypothesis), units.split(sentence.reference)) for sentence in sentences]
    return np.array([(editdistance.eval(hypothesis, reference), len(reference)) for hypothesis, reference in pairs], float)


def error_rate(totals: np.ndarray) -> np.ndarray:
    """Percent, from `error_counts` summed (..., 2)."""
    return 100 * _ratio(totals[..., 0], totals[..., 1])


def ngram_counts(sentences: list[Sentence], units: Units | None = None) -> np.ndarray:
    """sacreBLEU's counts (sentences, 10): matching n-grams and n-grams of orders 1 to 4, length, reference length.

    Args:
        units: as in `error_counts`.
    """
    metric = (units or _units(sentences)).bleu(effective_order=True)
    scores = [metric.sentence_score(sentence.hypothesis, [sentence.reference]) for sentence in sentences]
    return np.array([(*score.counts, *score.totals, score.sys_len, score.ref_len) for score in scores], float)


def _units(sentences: list[Sentence]) -> Units:
    return units_of(sentence.reference for sentence in sentences)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; infinite if only `whole` is 0, and 0 if both are."""
    nothing = np.where(part == 0, 0.0, np.copysign(np.inf, part))
    return np.divide(part, whole, out=nothing, where=whole != 0)


def bleu(totals: np.ndarray) -> np.ndarray:
    """sacreBLEU's score with its default smoothing, from `ngram_counts` summed (..., 10)."""
    flat = totals.reshape(-1, 2 * _ORDERS + 2)
    scores = []
    for row in flat.astype(int).tolist():
        correct, total, (length, reference_length) = row[:_ORDERS], row[_ORDERS : 2 * _ORDERS], row[2 * _ORDERS :]
        scores.append(BLEU.compute_bleu(correct, total, length, reference_length, smooth_method="exp").score)
    return np.array(scores).reshape(totals.shape[:-1])


COUNTS = {"wer": error_counts, "bleu": ngram_counts}
RATES = {"wer": error_rate, "bleu": bleu}


def corpus_scores(sentences: list[Sentence], units: Units | None = None) -> dict:
    """Error rate, BLEU and chrF of a test set, with sacreBLEU's signatures. For `units` see `error_counts`."""
    units = units or _units(sentences)
    hypotheses = [sentence.hypothesis for sentence in sentences]
    references = [[sentence.reference for sentence in sentences]]
    scores = {"wer": round(float(error_rate(error_counts(sentences, units).sum(0))), 3), "wer_units": units.error_rate}
    for name, metric in (("bleu", units.bleu()), ("chrf", CHRF())):
        scores[name] = round(metric.corpus_score(hypotheses, references).score, 3)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval; infinite if it is relative to 0."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isinf(self.value):
            return "–"
        value, low, high = (f"{number:.2f}".replace("inf", "∞") for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


def score_interval(metric: str, counts: list[np.ndarray], seed: int = 1) -> Estimate:
    """A system's mean score over its training seeds, with its interval.

    Args:
        metric: "wer" or "bleu".
        counts: per training seed, the counts of each sentence; the test set is the same.
    """
    rates = _resampled(metric, [counts], seed)[0]
    return Estimate(float(_rates(metric, counts).mean()), *_bounds(rates))


def relative_change(metric: str, counts: list[np.ndarray], reference: list[np.ndarray], seed: int = 1) -> Estimate:
    """Change in percent from the reference's mean score to the system's, over the same seeds and sentences.

    Two-level paired bootstrap with 2,000 resamples: training seeds with replacement, and the same sentences with replacement for
    both systems. The interval thus includes the variance of training and of the test set. With three seeds, the former
    is a rough estimate; with one seed, it is not included. A change from a score of 0 is infinite, and from 0 to 0 it is 0.
    """
    system_scores, reference_scores = _resampled(metric, [counts, reference], seed)
    value = _change(_rates(metric, counts).mean(), _rates(metric, reference).mean())
    return Estimate(float(value), *_bounds(_change(system_scores, reference_scores)))


def _change(score: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """In percent."""
    return 100 * _ratio(np.asarray(score - reference), np.asarray(reference))


def _rates(metric: str, counts: list[np.ndarray]) -> np.ndarray:
    return RATES[metric](np.stack([seed_counts.sum(0) for seed_counts in counts]))


def _resampled(metric: str, systems: list[list[np.ndarray]], seed: int) -> list[np.ndarray]:
    """Mean score per resample (resamples,), for each system."""
    stacked = [np.stack(counts) for counts in systems]  # seeds, sentences, counts
    seeds, sentences = stacked[0].shape[:2]
    rng = np.random.default_rng(seed)
    scores: list[list[float]] = [[] for _ in systems]
    for _ in range(RESAMPLES):
        chosen = rng.integers(seeds, size=seeds)
        weights = np.bincount(rng.integers(sentences, size=sentences), minlength=sentences)
        for system, counts in zip(scores, stacked):
            totals = np.einsum("n,snc->sc", weights, counts[chosen])
            system.append(RATES[metric](totals).mean())
    return [np.array(system) for system in scores]


def _bounds(values: np.ndarray) -> tuple[float, float]:
    # cannot interpolate between a number and infinity
    method: Literal["linear", "nearest"] = "linear" if np.isfinite(values).all() else "nearest"
    low, high = np.percentile(values, [2.5, 97.5], method=method)
    return float(low), float(high)
