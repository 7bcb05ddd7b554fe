"""Beam search with the results of fairseq-generate and of transformers' generate."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from residual_st.runtime.rules import Rules
from residual_st.runtime.settings import CompleteSettings

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of a decoder: last words, and the row that each continues


@dataclass(frozen=True)
class Hypothesis:
    """A text: its words without the end symbol, and its score, the log-probability normalised by length (`Settings.lenpen`)."""

    tokens: list[int]
    score: float


class BeamSearch:
    """Beam search over a batch of utterances.

    Args:
        step: function (last words (batch, beam), row that each continues (batch * beam,)) -> log-probabilities (batch, beam,
            vocabulary).
        keep: called with the utterances of the batch that remain when others are finished.
        rules: which words may follow.
        settings: search settings.
        prompt: one or more words given to the decoder before the search. They do not count in a text, its length or its score.
    """

    def __init__(self, step: Step, keep: Callable[[np.ndarray], None], rules: Rules, settings: CompleteSettings, prompt: list[int]):
        self._step, self._keep, self._rules, self._settings, self._prompt = step, keep, rules, settings, prompt

    def run(self, batch: int) -> list[list[Hypothesis]]:
        """The best hypotheses of each utterance."""
        settings, beam = self._settings, self._settings.beam
        finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
        active = np.arange(batch)  # utterances that are not finished
        scores = np.zeros((batch, beam), np.float32)
        order = np.arange(batch * beam)
        for word in self._prompt[:-1]:
            self._step(np.full((batch, beam), word), order)
        tokens = np.full((batch, beam, 1), self._prompt[-1], np.int64)
        for step in range(self._rules.longest + 1):
            log_probs = self._allowed(self._step(tokens[:, :, -1], order), tokens[:, :, 1:])
            totals = log_probs[:, :1] if step == 0 else log_probs + scores[:, :, None]  # all hypotheses are identical at first
            candidates, words, origins = _best(totals, 2 * beam)
            weight = np.float32(step + 1) ** np.float32(settings.lenpen)
            ended = (words == self._rules.eos) & np.isfinite(candidates)
            for row, column in zip(*np.nonzero(ended[:, :beam])):
                text = Hypothesis(tokens[row, origins[row, column], 1:].tolist(), float(candidates[row, column] / weight))
                self._add(finished[active[row]], text)
            if step == self._rules.longest:
                break
            # keep each utterance's best unfinished hypotheses; the candidates always contain enough of them
            chosen = np.argsort(ended, axis=1, kind="stable")[:, :beam]
            words, origins, scores = (np.take_along_axis(values, chosen, 1) for values in (words, origins, candidates))
            going_on = np.array([self._continues(finished[number], best / weight) for number, best in zip(active, scores[:, 0])])
            if not going_on.any():
                break
            tokens = np.concatenate([np.take_along_axis(tokens, origins[:, :, None], 1), words[:, :, None]], axis=2)
            order = origins + beam * np.arange(len(active))[:, None]
            if not going_on.all():
                tokens, scores, order, active = (values[going_on] for values in (tokens, scores, order, active))
                self._keep(going_on)
            order = order.reshape(-1)
        return [sorted(texts, key=lambda text: -text.score)[: settings.nbest] for texts in finished]

    def _add(self, texts: list[Hypothesis], text: Hypothesis) -> None:
        """Add a finished text to those of its utterance, which are the first finished ones or the best."""
        if self._settings.early_stopping and len(texts) == self._settings.beam:
            return
        texts.append(text)
        if len(texts) > self._settings.beam:
            texts.remove(min(texts, key=lambda each: each.score))

    def _continues(self, texts: list[Hypothesis], best: float) -> bool:
        """Whether the search continues, given the score `best` of the best unfinished hypothesis."""
        if len(texts) < self._settings.beam:
            return True
        is_greedy = self._settings.beam == 1
        return not (self._settings.early_stopping or is_greedy) and best > min(text.score for text in texts)

    def _allowed(self, log_probs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        batch, beam, size = log_probs.shape
        rows = self._rules.allowed(log_probs.reshape(-1, size), tokens.reshape(batch * beam, -1))
        return rows.reshape(batch, beam, size)


def _best(totals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` largest entries of (batch, rows, vocabulary) in descending order: values, words and rows, each (batch, count)."""
    flat = totals.reshape(len(totals), -1)
    count = min(count, flat.shape[1] - 1)
    places = np.argpartition(flat, -count, axis=1)[:, -count:]
    values = np.take_along_axis(flat, places, 1)
    by_value = np.argsort(-values, axis=1, kind="stable")
    values, places = (np.take_along_axis(each, by_value, 1) for each in (values, places))
    return values, places % totals.shape[2], places // totals.shape[2]
