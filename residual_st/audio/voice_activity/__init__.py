"""Where speech is in a recording, as Silero's voice-activity detector hears it. Needs onnxruntime and no torch.

The model is that of the package silero-vad 6.2.3 (MIT, in LICENSE), which itself depends on torch.
"""

from functools import cache
from pathlib import Path

import numpy as np

from residual_st.audio.reading import resample

MODEL = Path(__file__).with_name("silero_vad.onnx")
LICENSE = MODEL.with_name("LICENSE")
RATE = 16_000  # Hz, of the samples that it takes
FRAME = 512  # samples, 32 ms, for which it gives one probability
PEAK = 0.5  # of those: of speech at -60 dB as it is, a quarter would be missed
_CONTEXT = 64  # samples before a frame that it sees too
_STATE = (1, 1, 128)
_BLOCK_FRAMES = 2**12  # in one run, which bounds memory: two minutes


def for_detector(samples: np.ndarray, rate: int) -> np.ndarray:
    """(n,) -> whole frames at the detector's rate and as loud as it expects, the last one filled up with zeros."""
    samples = resample(samples, rate, RATE)
    loudest = np.abs(samples).max(initial=0.0)
    return np.pad(samples * np.float32(PEAK / loudest) if loudest else samples, (0, -len(samples) % FRAME))


def speech_probabilities(samples: np.ndarray) -> np.ndarray:
    """What `for_detector` makes, (frames * 512,) -> the probability of speech in each (frames,)."""
    padded = np.pad(samples, (_CONTEXT, 0))
    if not len(samples):
        return np.zeros(0, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + FRAME)[::FRAME]
    found, hidden, cell = [], np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = np.ascontiguousarray(frames[start : start + _BLOCK_FRAMES])
        probabilities, hidden, cell = _session().run(None, {"input": block, "h": hidden, "c": cell})
        found.append(probabilities)
    return np.concatenate(found)


@cache
def _session():
    import onnxruntime  # here, so that a module that cuts recordings can be imported without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
