"""Text of a live audio stream."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
KEPT_SECONDS = 1.0  # audio kept from before speech begins, since the detector reacts late
JOINED = 0.5  # relative to `Lengths.joined` of recordings: shorter windows, so that text is final sooner
HALF_A_LETTER = "\ufffd"  # how a part of a multi-byte character is written
_BEHIND = (PAUSE - MARGIN) * FRAME / RATE  # seconds of silence after a segment, beyond its margin


@dataclass(frozen=True)
class Update:
    """The text of a stream so far.

    Attributes:
        seconds: length of the audio processed so far.
        closed: windows that ended since the last update, each with its whole text.
        text: committed text of the open window. The closed texts followed by this one only grow.
        tail: text after it, which may still be revised.
    """

    seconds: float
    closed: tuple[Segment, ...] = ()
    text: str = ""
    tail: str = ""

    def as_json(self) -> dict:
        """The update in the form of `listen --json` and the page's server, with times in seconds to three decimals."""
        closed = [{"start": round(each.start, 3), "end": round(each.end, 3), "text": each.text} for each in self.closed]
        return {"seconds": round(self.seconds, 3), "closed": closed, "text": self.text, "tail": self.tail}


class Stream:
    """Live translation or transcription, in windows between pauses. Each stream is for one thread; several may share a `Model`.

    Silence and noise are skipped, as in recordings. A window ends at a pause, or else where a recording would be cut. Memory
    and time per second of audio do not grow with the stream.

    Args:
        model: a folder written by `residual-st export`, or a loaded `Model`.
        policy: rule that decides which words are committed before a window ends, one of `POLICIES`.
        settings: search settings.
        task: see `Direction`; None for the folder's setting.
        source_lang: see `Direction`; a language to be detected is that of the first window.
        target_lang: see `Direction`; None for the folder's setting.
        threads: number of threads per step.
        chunk_seconds: seconds of new audio per step.

    Raises:
        InputError: if the folder cannot be used, or the model does not support the direction or the policy.
    """

    _waiting: np.ndarray
    _decoded: tuple[int, int] | None  # the samples of the stream that the open window's words were decoded from

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
            raise InputError(f"{folder.path} has no decoder attention, which policy={policy} needs; export it again")
        settings.completed(folder.settings)
        self._direction = folder.languages.resolved(Direction(task, source_lang, target_lang))
        self._rate, self._chunk = folder.sample_rate, round(chunk_seconds * folder.sample_rate)
        self._lengths = Lengths(folder.lengths.longest, JOINED * folder.lengths.joined)
        self._restart()

    @property
    def sample_rate(self) -> int:
        """Default sample rate of the input in Hz, the model's."""
        return self._rate

    def feed(self, samples, rate: int | None = None) -> list[Update]:
        """Process all complete chunks. Returns at most one update, unless the samples are longer than a window.

        Args:
            samples: the next samples, any number, see `Incoming.samples`.
            rate: sample rate of the whole stream in Hz; None for the model's.

        Raises:
            InputError: for invalid samples, which leave the stream unchanged.
        """
        self._waiting = np.concatenate([self._waiting, self._incoming.samples(samples, rate)])
        updates, most = [], max(self._chunk, round(self._lengths.longest * self._rate))
        while len(self._waiting) >= self._chunk:
            whole = min(len(self._waiting), most) // self._chunk * self._chunk
            step, self._waiting = self._waiting[:whole], self._waiting[whole:]
            updates.append(self._step(step, is_last=False))
        return updates

    def finish(self) -> Update:
        """End the stream and return its last update. Samples fed afterwards belong to a new stream."""
        rest = np.concatenate([self._waiting, self._incoming.rest()])
        update = self._step(rest, is_last=True)
        self._restart()
        return update

    def _restart(self) -> None:
        self._incoming, self._random = Incoming(self._rate), np.random.default_rng(SEED)
        self._windows, self._texts = self._begun()
        self._waiting = self._held = np.zeros(0, np.float32)
        self._before = 0  # number of the stream's samples before `_held`
        self._open()

    def _begun(self) -> tuple[WholeWindows[Any] | GrowingWindows[Any], DecodedTexts | CtcTexts]:
        """The encoding and the decoding of windows, which match: the second reads what the first returns."""
        model, is_whole = self._model, self._model.folder.streaming is None
        if model.folder.has_decoder:
            texts = DecodedTexts(model, self._settings, self._direction)
            return WholeWindows(model, model.decoder_source) if is_whole else GrowingWindows(model, model.decoder_source_of), texts
        frames = WholeWindows(model, model.ctc_frames) if is_whole else GrowingWindows(model, model.ctc_frames_of)
        return frames, CtcTexts(model, self._settings)

    def _open(self, words: list[int] | None = None) -> None:
        """Begin a new window, in which `words` are already committed."""
        self._policy, self._words = self._policy_of(), words or []
        self._text = self._written(self._words).rstrip(HALF_A_LETTER)
        self._decoded = None
        self._states, self._tail = 0, ""  # from the last step

    def _step(self, samples: np.ndarray, is_last: bool) -> Update:
        self._held = np.concatenate([self._held, samples])
        spans, closed = spans_between_pauses(self._held, self._rate, self._lengths, not is_last), []
        if self._decoded is not None and self._words:
            # audio classified as speech stays speech, even if louder audio follows
            start, decoded = (place - self._before for place in self._decoded)
            if spans and spans[0][0] < decoded:
                spans[0] = (min(start, spans[0][0]), spans[0][1])
            else:
                spans.insert(0, (start, decoded))
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
        """Whether the last window has ended: a short window may continue after its pause."""
        is_whole = end - start >= max(SHORT, self._lengths.joined) * self._rate
        return len(self._held) - end >= (_BEHIND if is_whole else CLOSE) * self._rate

    def _grow(self, start: int, end: int) -> str:
        """Decode the open window and commit words; returns the text of the uncommitted words."""
        encoded = self._windows.encoded(self._held[start:], self._before + start, end - start, is_last=False)
        if encoded is None:
            return ""
        start, end, before = self._before + start, self._before + end, self._decoded
        self._decoded = start, end
        if before is not None and (start, encoded.states) == (before[0], self._states) and end > before[1]:
            return self._tail  # no new complete chunk: comparing with the last step would compare it with itself
        self._states = encoded.states
        candidate = self._texts.candidate(encoded, self._words, self._policy.needs_places)
        committed = self._policy.committed(candidate)
        self._words = [*self._words, *candidate.words[:committed]]
        self._text = self._grown(self._words)
        whole, rest = self._written([*self._words, *candidate.words[committed:]]), candidate.words[committed:]
        self._tail = whole[len(self._text) :] if whole.startswith(self._text) else self._written(rest)
        return self._tail

    def _close(self, start: int, end: int) -> Segment:
        """End the window, and begin the next one with the committed words that belong to later audio."""
        encoded = self._windows.encoded(self._held[start:], self._before + start, end - start, is_last=True)
        words = self._words
        later: list[int] = []
        if encoded is not None:
            if self._decoded is not None and self._decoded[1] > self._before + end:  # speech without a pause was cut
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
        """Text of committed words. It begins with the earlier text and does not end in an incomplete character."""
        text = self._written(words).rstrip(HALF_A_LETTER)
        return text if text.startswith(self._text) else self._text
