"""Beam search as fairseq-generate does it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Settings:
    """fairseq-generate's flags of the same names.

    Attributes:
        beam: hypotheses of each utterance.
        nbest: of which so many are returned, the best first.
        lenpen: scores are divided by length to this power.
        unkpen: what a word that is not in the vocabulary costs.
        max_len_a, max_len_b: the longest text, `a * frames + b` words.
        min_len: the shortest, its end not counted.
    """

    beam: int = 5
    nbest: int = 1
    lenpen: float = 1.0
    unkpen: float = 0.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    min_len: int = 1


@dataclass(frozen=True)
class Hypothesis:
    """A text: its words, the end not among them, and its mean log-probability, lengths weighed as the settings say."""

    tokens: list[int]
    score: float


class BeamSearch:
    """The search for the texts of a batch of utterances.

    Args:
        step: (last words (batch, beam), row that each goes on from (batch * beam,)) -> log-probabilities (batch, beam, vocabulary).
        keep: told which utterances of the batch remain, when others are finished.
        vocabulary: for the numbers of its special symbols.
        longest: words of a text, its end not counted.
        prefix: words that each text begins with.
    """

    def __init__(self, step: Callable, keep: Callable, vocabulary, settings: Settings, longest: int, prefix: list[int]):
        self._step, self._keep, self._vocabulary = step, keep, vocabulary
        self._settings, self._longest, self._prefix = settings, longest, prefix

    def run(self, batch: int) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance."""
        settings, beam = self._settings, self._settings.beam
        finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
        active = np.arange(batch)  # utterances that are not finished
        tokens = np.full((batch, beam, 1), self._vocabulary.start, np.int64)
        scores = np.zeros((batch, beam), np.float32)
        order = np.arange(batch * beam)
        for step in range(self._longest + 1):
            log_probs = self._allowed(self._step(tokens[:, :, -1], order), step)
            totals = log_probs[:, :1] if step == 0 else log_probs + scores[:, :, None]  # at first all hypotheses are alike
            candidates, words, origins = _best(totals, 2 * beam)
            ended = (words == self._vocabulary.eos) & np.isfinite(candidates)
            for row, column in zip(*np.nonzero(ended[:, :beam])):
                texts = finished[active[row]]
                if len(texts) < beam:
                    score = candidates[row, column] / np.float32(step + 1) ** np.float32(settings.lenpen)
                    texts.append(Hypothesis(tokens[row, origins[row, column], 1:].tolist(), float(score)))
            going_on = np.array([len(finished[utterance]) < beam for utterance in active])
            if step == self._longest or not going_on.any():
                break
            # of each utterance the best hypotheses that have not ended; more than enough of them are among the candidates
            chosen = np.argsort(ended, axis=1, kind="stable")[:, :beam]
            words, origins, scores = (np.take_along_axis(values, chosen, 1) for values in (words, origins, candidates))
            tokens = np.concatenate([np.take_along_axis(tokens, origins[:, :, None], 1), words[:, :, None]], axis=2)
            order = origins + beam * np.arange(len(active))[:, None]
            if not going_on.all():
                tokens, scores, order, active = (values[going_on] for values in (tokens, scores, order, active))
                self._keep(going_on)
            order = order.reshape(-1)
        return [sorted(texts, key=lambda text: -text.score)[: settings.nbest] for texts in finished]

    def _allowed(self, log_probs: np.ndarray, step: int) -> np.ndarray:
        """Log-probabilities with -inf where a word may not follow."""
        vocabulary = self._vocabulary
        log_probs = np.where(np.isnan(log_probs), -np.inf, log_probs)
        if vocabulary.pad is not None:
            log_probs[:, :, vocabulary.pad] = -np.inf
        if vocabulary.unk is not None:
            log_probs[:, :, vocabulary.unk] -= self._settings.unkpen
        if step >= self._longest:
            _only(log_probs, vocabulary.eos)
        elif step < len(self._prefix):
            _only(log_probs, self._prefix[step])
        elif step < self._settings.min_len:
            log_probs[:, :, vocabulary.eos] = -np.inf
        return log_probs


def _only(log_probs: np.ndarray, word: int) -> None:
    kept = log_probs[:, :, word].copy()
    log_probs[:] = -np.inf
    log_probs[:, :, word] = kept


def _best(totals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest of (batch, rows, vocabulary), from above: values, words and rows, each (batch, count)."""
    flat = totals.reshape(len(totals), -1)
    count = min(count, flat.shape[1] - 1)
    places = np.argpartition(flat, -count, axis=1)[:, -count:]
    values = np.take_along_axis(flat, places, 1)
    by_value = np.argsort(-values, axis=1, kind="stable")
    values, places = (np.take_along_axis(each, by_value, 1) for each in (values, places))
    return values, places % totals.shape[2], places // totals.shape[2]
