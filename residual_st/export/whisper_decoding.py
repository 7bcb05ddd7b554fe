"""Timestamps and fallback rules from a Whisper folder's generation settings, for the device runtime."""

import residual_st.huggingface  # noqa: F401

# import transformers after residual_st.huggingface, which hides a torchaudio that does not load
from transformers import GenerationConfig  # isort: skip

# defaults of Whisper's authors; by transformers' measure normal sentences have a ratio of 1.5, and loops of 7
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_THRESHOLDS = {"compression_ratio": ("compression_ratio_threshold", 2.4), "log_prob": ("logprob_threshold", -1.0)}
_THRESHOLDS["no_speech"] = ("no_speech_threshold", 0.6)
_SECONDS = 0.02  # seconds between two timestamps, generate's `time_precision`


def timestamps_of(settings: GenerationConfig, size: int) -> dict | None:
    """Arguments of `runtime.timestamps.TimeStamps`; None if generate cannot return timestamps or the model has none."""
    none = getattr(settings, "no_timestamps_token_id", None)
    if none is None or none + 1 >= size:
        return None
    latest = getattr(settings, "max_initial_timestamp_index", None)
    return {"none": none, "first": none + 1, "seconds": _SECONDS, "latest_start": latest, "silence": none - 1}


def fallback_of(settings: GenerationConfig) -> dict:
    """Arguments of `runtime.fallback.Fallback`: the folder's thresholds, or the defaults of Whisper's authors."""
    configured = {name: getattr(settings, key, None) for name, (key, _) in _THRESHOLDS.items()}
    thresholds = {name: default if configured[name] is None else configured[name] for name, (_, default) in _THRESHOLDS.items()}
    return {"temperatures": _TEMPERATURES, **thresholds}
