"""Speech as it comes, and its text as it grows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import CLOSE, MARGIN, PAUSE, SHORT, spans_between_pauses
from residual_st.audio.voice_activity import FRAME, RATE
from residual_st.errors import InputError
from residual_st.languages import Direction
from residual_st.runtime.model import Model
from residual_st.runtime.settings import Settings
from residual_st.runtime.translator import SEED, Segment
from residual_st.streaming.incoming import Incoming
from residual_st.streaming.policies import POLICIES, between_words, covered
from residual_st.streaming.sources import GrowingWindows, WholeWindows
from residual_st.streaming.texts import CtcTexts, DecodedTexts

DEFAULT_POLICY = "local-agreement"
CHUNK_SECONDS = 1.0
SHORTEST_CHUNK, LONGEST_CHUNK = 0.1, 10.0
KEPT_SECONDS = 1.0  # of what came before speech: the detector takes a while to be sure of it
JOINED = 0.5  # of the length to which a recording's pieces are joined: their text is to stand before they are all there
HALF_A_LETTER = "\ufffd"  # what a text has for it
_BEHIND = (PAUSE - MARGIN) * FRAME / RATE  # seconds of quiet behind a piece, of whose margin the others are


@dataclass(frozen=True)
class Update:
    """What a stream says, as far as it was heard.

    Attributes:
        seconds: of the stream that were heard.
        closed: windows that ended since the update before, each with its whole text.
        text: of the open window, so far as it stands. All closed texts and this one, put together, only grow.
        tail: what comes behind, and may be revised.
    """

    seconds: float
    closed: tuple[Segment, ...] = ()
    text: str = ""
    tail: str = ""

    def as_json(self) -> dict:
        """As `listen --json` and the page's server write it, in seconds with three decimals."""
        closed = [{"start": round(each.start, 3), "end": round(each.end, 3), "text": each.text} for each in self.closed]
        return {"seconds": round(self.seconds, 3), "closed": closed, "text": self.text, "tail": self.tail}


class Stream:
    """Text of one speaker's stream, in windows between pauses. Each is for one thread; several may share a `Model`.

    Silence and noise are left out, as in recordings. A window ends at a pause or, where there is none, as a recording is cut;
    memory, and time for a second of sound, do not grow with the stream.

    Args:
        model: a folder that `residual-st export` wrote, or one that is loaded already.
        policy: what stands before a window ends, one of `POLICIES`.
        settings: of the search.
        task: as in `Direction`; None for what the folder says.
        source_lang: likewise; a language that is detected is that of the first window.
        target_lang: likewise.
        threads: of one step.
        chunk_seconds: of new sound in each step.

    Raises:
        InputError: if the folder cannot be used, or cannot do what is asked.
    """

    def __init__(
        self,
        model: str | Path | Model,
        policy: str = DEFAULT_POLICY,
        settings: Settings = Settings(),  # noqa: B008 - frozen
        *,
        task: str | None = None,
        source_lang: str | None = None,
        target_lang: str | None = None,
        threads: int = 1,
        chunk_seconds: float = CHUNK_SECONDS,
    ):
        if policy not in POLICIES:
            raise InputError(f"policy={policy} is not known; it must be one of {', '.join(POLICIES)}")
        if not SHORTEST_CHUNK <= chunk_seconds <= LONGEST_CHUNK:
            raise InputError(f"chunk_seconds={chunk_seconds:g} must be from {SHORTEST_CHUNK:g} to {LONGEST_CHUNK:g}")
        self._policy_of, self._settings = POLICIES[policy], settings
        model = model if isinstance(model, Model) else Model(model, threads)
        self._model = model.by_ctc() if self._policy_of.is_of_ctc else model
        folder = self._model.folder
        if self._policy_of.needs_places and folder.has_decoder and not self._model.has_attention:
            raise InputError(f"{folder.path} has no attention in its decoder, which policy={policy} reads; export it again")
        settings.completed(folder.settings)
        self._direction = folder.languages.resolved(Direction(task, source_lang, target_lang))
        self._rate, self._chunk = folder.sample_rate, round(chunk_seconds * folder.sample_rate)
        self._lengths = Lengths(folder.lengths.longest, JOINED * folder.lengths.joined)
        self._restart()

    @property
    def sample_rate(self) -> int:
        """Hz, of samples whose rate is not given."""
        return self._rate

    def feed(self, samples, rate: int | None = None) -> list[Update]:
        """Updates of as many chunks as are whole now: one at most, unless more sound came at once than a window holds.

        Args:
            samples: the next ones, any number, as `Incoming.samples` takes them.
            rate: Hz, of these and all others of the stream; None for the model's.

        Raises:
            InputError: for samples that cannot be used, after which the stream is as it was before.
        """
        self._waiting = np.concatenate([self._waiting, self._incoming.samples(samples, rate)])
        updates, most = [], max(self._chunk, round(self._lengths.longest * self._rate))
        while len(self._waiting) >= self._chunk:
            whole = min(len(self._waiting), most) // self._chunk * self._chunk
            step, self._waiting = self._waiting[:whole], self._waiting[whole:]
            updates.append(self._step(step, is_last=False))
        return updates

    def finish(self) -> Update:
        """What is left. What is fed afterwards is another stream."""
        rest = np.concatenate([self._waiting, self._incoming.rest()])
        update = self._step(rest, is_last=True)
        self._restart()
        return update

    def _restart(self) -> None:
        folder = self._model.folder
        self._incoming, self._random = Incoming(self._rate), np.random.default_rng(SEED)
        self._windows = WholeWindows(self._model) if folder.streaming is None else GrowingWindows(self._model)
        self._texts = (DecodedTexts if folder.has_decoder else CtcTexts)(self._model, self._settings, self._direction)
        self._waiting = self._held = np.zeros(0, np.float32)
        self._before = 0  # samples of the stream before those that are held
        self._open()

    def _open(self, words: list[int] | None = None) -> None:
        """A new window, in which these words stand already."""
        self._policy, self._words = self._policy_of(), words or []
        self._text = self._written(self._words).rstrip(HALF_A_LETTER)
        self._start = self._heard = None  # samples of the stream from which on and up to which its words were found
        self._states, self._tail = 0, ""  # of the step before

    def _step(self, samples: np.ndarray, is_last: bool) -> Update:
        self._held = np.concatenate([self._held, samples])
        spans, closed = spans_between_pauses(self._held, self._rate, self._lengths, not is_last), []
        if self._heard is not None and self._words:
            # what was taken for speech stays it, though something louder came behind it
            start, heard = self._start - self._before, self._heard - self._before
            if spans and spans[0][0] < heard:
                spans[0] = (min(start, spans[0][0]), spans[0][1])
            else:
                spans.insert(0, (start, heard))
        while spans and (len(spans) > 1 or is_last or self._is_over(*spans[0])):
            start, end = spans.pop(0)
            segment = self._close(start, end)
            closed += [segment] if segment.text else []
            self._drop(end)
            spans = [(first - end, last - end) for first, last in spans]
        tail = ""
        if spans:
            tail = self._grow(*spans[0])
        else:
            self._drop(len(self._held) - round(KEPT_SECONDS * self._rate))
        seconds = (self._before + len(self._held)) / self._rate
        return Update(seconds, tuple(closed), self._text, tail)

    def _is_over(self, start: int, end: int) -> bool:
        """Whether the last window ends with its speech: a short one may go on behind its pause."""
        is_whole = end - start >= max(SHORT, self._lengths.joined) * self._rate
        return len(self._held) - end >= (_BEHIND if is_whole else CLOSE) * self._rate

    def _grow(self, start: int, end: int) -> str:
        """Find more words of the open window; returns the text of those that do not stand."""
        encoded = self._windows.encoded(self._held[start:], self._before + start, end - start, is_last=False)
        if encoded is None:
            return ""
        start, end, before = self._before + start, self._before + end, (self._start, self._heard)
        self._start, self._heard = start, end
        if (start, encoded.states) == (before[0], self._states) and end > before[1]:
            return self._tail  # there is more sound, and no whole chunk of it: two steps in a row would be one
        self._states = encoded.states
        found = self._texts.found(encoded, self._words, self._policy.needs_places)
        standing = self._policy.standing(found)
        self._words = [*self._words, *found.words[:standing]]
        self._text = self._grown(self._words)
        whole, rest = self._written([*self._words, *found.words[standing:]]), found.words[standing:]
        self._tail = whole[len(self._text) :] if whole.startswith(self._text) else self._written(rest)
        return self._tail

    def _close(self, start: int, end: int) -> Segment:
        """End the window, and begin the next one with those words that stand and are of what comes behind."""
        encoded = self._windows.encoded(self._held[start:], self._before + start, end - start, is_last=True)
        words, later = self._words, []
        if encoded is not None:
            if self._heard is not None and self._heard > self._before + end:  # speech without a pause was cut
                here = between_words(words, covered(words, self._texts.last(encoded, [], self._random)), self._written)
                words, later = words[:here], words[here:]
            if not later:
                words = [*words, *self._texts.last(encoded, words, self._random)]
            self._texts.window_ended(encoded)
        text = self._written(words) if later else self._grown(words)
        self._open(later)
        return Segment((self._before + start) / self._rate, (self._before + end) / self._rate, text, [])

    def _drop(self, samples: int) -> None:
        samples = max(0, samples)
        self._held, self._before = self._held[samples:], self._before + samples

    def _written(self, words: list[int]) -> str:
        return self._model.vocabulary.text(words)

    def _grown(self, words: list[int]) -> str:
        """Text of words that stand, which begins with the text before, and has no half letter at its end."""
        text = self._written(words).rstrip(HALF_A_LETTER)
        return text if text.startswith(self._text) else self._text
