"""Beam search as fairseq-generate does it, and as transformers' generate does."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from residual_st.errors import InputError


@dataclass(frozen=True)
class Settings:
    """fairseq-generate's flags of the same names, and transformers' `early_stopping`.

    None is for what the model's folder says, as one that was made from a Hugging Face folder does, and else for `FAIRSEQ`.

    Attributes:
        beam: hypotheses of each utterance.
        nbest: of which so many are returned, the best first.
        lenpen: scores are divided by length to this power.
        unkpen: what a word that is not in the vocabulary costs.
        max_len_a, max_len_b: the longest text, `a * frames + b` words; never longer than the model's own limit.
        min_len: the shortest, its end not counted.
        early_stopping: whether the search ends as soon as `beam` texts have ended, or continues while a better one may come.
    """

    beam: int | None = None
    nbest: int = 1
    lenpen: float | None = None
    unkpen: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    min_len: int | None = None
    early_stopping: bool | None = None

    def completed(self, own: "Settings") -> "Settings":
        """These settings, with the model's own and then `FAIRSEQ` where they are None.

        Raises:
            InputError: if more hypotheses are asked for than there are.
        """
        settings = Settings(
            **{
                field.name: next(value for each in (self, own, FAIRSEQ) if (value := getattr(each, field.name)) is not None)
                for field in fields(self)
            }
        )
        if settings.nbest > settings.beam:
            raise InputError(f"--nbest {settings.nbest} is more than --beam {settings.beam}, of which they are taken")
        return settings


FAIRSEQ = Settings(
    beam=5, nbest=1, lenpen=1.0, unkpen=0.0, max_len_a=0.0, max_len_b=200, min_len=1, early_stopping=True
)  # what fairseq-generate does when it is told nothing


@dataclass(frozen=True)
class Hypothesis:
    """A text: its words, the end not among them, and its mean log-probability, lengths weighed as the settings say."""

    tokens: list[int]
    score: float


class BeamSearch:
    """The search for the texts of a batch of utterances.

    Args:
        step: (last words (batch, beam), row that each continues (batch * beam,)) -> log-probabilities (batch, beam, vocabulary).
        keep: told which utterances of the batch remain, when others are finished.
        vocabulary: for the numbers of its special symbols.
        settings: complete.
        longest: words of a text, its end not counted.
        prompt: what the decoder is given before the search: one word at least, no part of a text, its length or its score.
        prefix: words that each text begins with.
    """

    def __init__(
        self, step: Callable, keep: Callable, vocabulary, settings: Settings, longest: int, prompt: list[int], prefix: list[int]
    ):
        self._step, self._keep, self._vocabulary = step, keep, vocabulary
        self._settings, self._longest, self._prompt, self._prefix = settings, longest, prompt, prefix

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
        for step in range(self._longest + 1):
            log_probs = self._allowed(self._step(tokens[:, :, -1], order), step)
            totals = log_probs[:, :1] if step == 0 else log_probs + scores[:, :, None]  # at first all hypotheses are alike
            candidates, words, origins = _best(totals, 2 * beam)
            weight = np.float32(step + 1) ** np.float32(settings.lenpen)
            ended = (words == self._vocabulary.eos) & np.isfinite(candidates)
            for row, column in zip(*np.nonzero(ended[:, :beam])):
                text = Hypothesis(tokens[row, origins[row, column], 1:].tolist(), float(candidates[row, column] / weight))
                self._add(finished[active[row]], text)
            if step == self._longest:
                break
            # of each utterance the best hypotheses that have not ended; more than enough of them are among the candidates
            chosen = np.argsort(ended, axis=1, kind="stable")[:, :beam]
            words, origins, scores = (np.take_along_axis(values, chosen, 1) for values in (words, origins, candidates))
            going_on = np.array([self._goes_on(finished[number], best / weight) for number, best in zip(active, scores[:, 0])])
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
        """Put a text that has ended to those of its utterance: the first ones, or the best."""
        if self._settings.early_stopping and len(texts) == self._settings.beam:
            return
        texts.append(text)
        if len(texts) > self._settings.beam:
            texts.remove(min(texts, key=lambda each: each.score))

    def _goes_on(self, texts: list[Hypothesis], best: float) -> bool:
        """Whether more texts are searched for, where the best that has not ended has this score now."""
        if len(texts) < self._settings.beam:
            return True
        is_greedy = self._settings.beam == 1
        return not (self._settings.early_stopping or is_greedy) and best > min(text.score for text in texts)

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
        else:
            log_probs[:, :, vocabulary.suppressed] = -np.inf
            if step == len(self._prefix):
                log_probs[:, :, vocabulary.begin_suppressed] = -np.inf
            if step < self._settings.min_len:
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
