"""Cutting recordings at pauses into segments with speech. `web/page/pauses.js` is the same algorithm. Needs no torch."""

import numpy as np

from residual_st.audio.lengths import Lengths
from residual_st.audio.voice_activity import FRAME, RATE, for_detector, speech_probabilities

# as in the detector's own get_speech_timestamps: speech begins above the first and ends below the second
BEGIN, END = 0.5, 0.35
PAUSE = 7  # frames of 32 ms between two segments: 0.3 s of silence, whose first 0.1 s the detector classifies as speech
LEAST = 4  # minimum frames of speech in a segment: music and clicks are classified as speech for fewer frames
MARGIN = 3  # frames of pause kept at each end of a segment
STEP = 128  # samples (8 ms) per energy measurement
SILENCE = 1e-6  # relative to the energy of loud steps (-60 dB): digital silence, which disturbs normalisation
AROUND = 9  # number of steps averaged to find the quietest place for a cut
SHORT = 1.0  # seconds: shorter segments, possibly of one word, are joined to a neighbour
CLOSE = 2.0  # seconds: segments further apart are not joined


def split_at_pauses(samples: np.ndarray, rate: int, lengths: Lengths) -> list[np.ndarray]:
    """The samples of each segment of `spans_between_pauses`."""
    return [samples[start:end] for start, end in spans_between_pauses(samples, rate, lengths)]


def spans_between_pauses(samples: np.ndarray, rate: int, lengths: Lengths, is_partial: bool = False) -> list[tuple[int, int]]:
    """The segments of a recording with speech, each as (first sample, sample after the last).

    A pause is 0.3 s or more without speech; 0.1 s of it is kept on each side, except digital silence. Segments up to 2 s apart are
    joined if the result lasts at most `lengths.joined`, or if one of them is shorter than 1 s. Segments longer than
    `lengths.longest` are cut where they are quietest. Silence and noise are dropped; without speech there are no segments.

    Args:
        is_partial: whether the recording continues; then the last segment is not joined for being short.
    """
    frames = for_detector(samples, rate)
    if not len(frames):
        return []
    energy = np.square(frames.reshape(-1, STEP), dtype=np.float64).sum(1)
    spans = [_audible(energy, start * FRAME // STEP, end * FRAME // STEP) for start, end in _spoken(speech_probabilities(frames))]
    spans = _joined(spans, lengths, is_partial)
    energy = np.convolve(energy, np.ones(AROUND), "same")
    cuts = [_cut_long(energy, span, max(8, _steps(lengths.longest))) for span in spans]
    scale = rate * STEP / RATE
    return [(round(start * scale), min(round(end * scale), len(samples))) for piece in cuts for start, end in zip(piece, piece[1:])]


def _steps(seconds: float) -> int:
    return int(seconds * RATE / STEP)


def _spoken(probabilities: np.ndarray) -> list[list[int]]:
    """Spans of speech between pauses, with margins, each as [first frame, frame after the last]."""
    spans: list[list[int]] = []
    spoken: list[int] = []  # number of speech frames in each span
    speaking = False
    for frame, probability in enumerate(probabilities):
        speaking = probability >= (END if speaking else BEGIN)
        if not speaking:
            continue
        if spans and frame - spans[-1][1] < PAUSE:
            spans[-1][1] = frame + 1
            spoken[-1] += 1
        else:
            spans.append([frame, frame + 1])
            spoken.append(1)
    size = len(probabilities)
    return [[max(0, start - MARGIN), min(size, end + MARGIN)] for (start, end), count in zip(spans, spoken) if count >= LEAST]


def _audible(energy: np.ndarray, start: int, end: int) -> list[int]:
    """A span of steps, with digital silence at its ends removed."""
    inside = np.flatnonzero(energy[start:end] > SILENCE * np.percentile(energy, 95)) + start
    return [int(inside[0]), int(inside[-1]) + 1] if len(inside) else [start, end]


def _joined(spans: list[list[int]], lengths: Lengths, is_partial: bool) -> list[list[int]]:
    result: list[list[int]] = []
    for place, (start, end) in enumerate(spans, start=1):
        if result and start - result[-1][1] <= _steps(CLOSE):
            first, last = result[-1]
            is_growing = is_partial and place == len(spans)
            is_short = last - first < _steps(SHORT) or end - start < _steps(SHORT) and not is_growing
            if end - first <= _steps(lengths.longest if is_short else lengths.joined):
                result[-1][1] = end
                continue
        result.append([start, end])
    return result


def _cut_long(energy: np.ndarray, cuts: list[int], longest: int) -> list[int]:
    """Cuts between segments of at most `longest` steps; new cuts are at the quietest place in the middle half of a segment."""
    result = [cuts[0]]
    for end in cuts[1:]:
        start = result[-1]
        if end - start > longest:
            quarter = (end - start) // 4
            middle = start + quarter + int(np.argmin(energy[start + quarter : end - quarter]))
            result += _cut_long(energy, [start, middle, end], longest)[1:]
        else:
            result.append(end)
    return result
