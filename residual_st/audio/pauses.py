"""Recordings cut at their pauses: the pieces in which somebody speaks. `web/page/pauses.js` is the same rule. Needs no torch."""

import numpy as np

from residual_st.audio.lengths import Lengths
from residual_st.audio.voice_activity import FRAME, RATE, for_detector, speech_probabilities

# as the detector's own get_speech_timestamps has them: above the first speech begins, below the second it ends
BEGIN, END = 0.5, 0.35
PAUSE = 7  # frames of 32 ms between two pieces: 0.3 s of quiet, of which the detector takes the first 0.1 s for speech
LEAST = 4  # frames of speech in a piece: notes of music and clicks pass for speech for shorter than that
MARGIN = 3  # frames that stay at each end of a piece
STEP = 128  # samples, 8 ms: how finely energy is measured
SILENCE = 1e-6  # of the energy of loud steps, 60 dB below them: digital silence, which shifts what features are normalised by
AROUND = 9  # steps over which it must be quiet where speech without a pause is cut
SHORT = 1.0  # seconds: shorter pieces, of one word perhaps, are joined to a neighbour
CLOSE = 2.0  # seconds: pieces that lie further apart are not joined


def split_at_pauses(samples: np.ndarray, rate: int, lengths: Lengths) -> list[np.ndarray]:
    """The pieces between the cuts of `spans_between_pauses`."""
    return [samples[start:end] for start, end in spans_between_pauses(samples, rate, lengths)]


def spans_between_pauses(samples: np.ndarray, rate: int, lengths: Lengths, is_partial: bool = False) -> list[tuple[int, int]]:
    """The pieces of a recording in which somebody speaks: first sample of each, and the one behind its last.

    A pause is 0.3 s or more without speech, of which 0.1 s stays on each side, but no digital silence. Lengths that are no further
    apart than 2 s are joined where they then last `lengths.joined` at most, or where one is shorter than 1 s; those longer than
    `lengths.longest` are cut where they are quietest. Silence and noise are in no piece, and without speech there is none.

    Args:
        is_partial: whether the recording continues: its last piece, which has just begun, is not joined for being short.
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
    """Frames in which somebody speaks, between pauses, with what stays of these: first frame, and the one behind the last."""
    spans, speaking, spoken = [], False, []  # `spoken`: how many frames of each span have speech
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
    """A span of steps without digital silence at its ends."""
    inside = np.flatnonzero(energy[start:end] > SILENCE * np.percentile(energy, 95)) + start
    return [int(inside[0]), int(inside[-1]) + 1] if len(inside) else [start, end]


def _joined(spans: list[list[int]], lengths: Lengths, is_partial: bool) -> list[list[int]]:
    result = []
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
    """Cuts between pieces of at most `longest` steps; new ones fall where the middle half of a piece is quietest."""
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
