"""Voice-activity detection with Silero's model. Needs onnxruntime, but not torch.

The model is from the package silero-vad 6.2.3 (MIT, see LICENSE), which itself depends on torch.
"""

from functools import cache
from pathlib import Path

import numpy as np

from residual_st.audio.reading import resample

MODEL = Path(__file__).with_name("silero_vad.onnx")
LICENSE = MODEL.with_name("LICENSE")
RATE = 16_000  # Hz, sample rate of the model
FRAME = 512  # samples (32 ms) per probability
PEAK = 0.5  # peak amplitude that the input is scaled to: a quarter of unscaled speech at -60 dB would be missed
_CONTEXT = 64  # samples before a frame that the model also reads
_STATE = (1, 1, 128)
_BLOCK_FRAMES = 2**12  # frames per run (two minutes), which bounds memory


def for_detector(samples: np.ndarray, rate: int) -> np.ndarray:
    """(n,) -> whole frames at the detector's rate and amplitude; the last frame is padded with zeros."""
    samples = resample(samples, rate, RATE)
    loudest = np.abs(samples).max(initial=0.0)
    return np.pad(samples * np.float32(PEAK / loudest) if loudest else samples, (0, -len(samples) % FRAME))


def speech_probabilities(samples: np.ndarray) -> np.ndarray:
    """Output of `for_detector` (frames * 512,) -> probability of speech in each frame (frames,)."""
    padded = np.pad(samples, (_CONTEXT, 0))
    if not len(samples):
        return np.zeros(0, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + FRAME)[::FRAME]
    probabilities, hidden, cell = [], np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
    for start in range(0, len(frames), _BLOCK_FRAMES):
        block = np.ascontiguousarray(frames[start : start + _BLOCK_FRAMES])
        block_probabilities, hidden, cell = _session().run(None, {"input": block, "h": hidden, "c": cell})
        probabilities.append(block_probabilities)
    return np.concatenate(probabilities)


@cache
def _session():
    import onnxruntime  # imported here, so that modules that cut recordings can be imported without it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
