"""Time stamps and the rules of a fallback of a Whisper's folder, as generate reads them, for the device runtime."""

import residual_st.huggingface  # noqa: F401

# transformers comes behind residual_st.huggingface, which hides a torchaudio that does not load
from transformers import GenerationConfig  # isort: skip

# those of Whisper's authors where a folder sets nothing; sentences alike have a ratio of 1.5 by transformers' measure, loops 7
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_THRESHOLDS = {"compression_ratio": ("compression_ratio_threshold", 2.4), "log_prob": ("logprob_threshold", -1.0)}
_THRESHOLDS["no_speech"] = ("no_speech_threshold", 0.6)
_SECONDS = 0.02  # between two time stamps, generate's `time_precision`


def timestamps_of(settings: GenerationConfig, size: int) -> dict | None:
    """What `runtime.timestamps.TimeStamps` takes; None where generate refuses to return time stamps, or there are no such words."""
    none = getattr(settings, "no_timestamps_token_id", None)
    if none is None or none + 1 >= size:
        return None
    latest = getattr(settings, "max_initial_timestamp_index", None)
    return {"none": none, "first": none + 1, "seconds": _SECONDS, "latest_start": latest, "silence": none - 1}


def fallback_of(settings: GenerationConfig) -> dict:
    """What `runtime.fallback.Fallback` takes: the folder's thresholds, or its authors'."""
    found = {name: getattr(settings, theirs, None) for name, (theirs, _) in _THRESHOLDS.items()}
    thresholds = {name: default if found[name] is None else found[name] for name, (_, default) in _THRESHOLDS.items()}
    return {"temperatures": _TEMPERATURES, **thresholds}
