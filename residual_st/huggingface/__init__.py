"""Hugging Face speech models with shared layers. Needs the extra `transformers`.

Importing it registers the storage format of shared layers with transformers, so that `from_pretrained` reads such folders.
"""

import sys

from residual_st.compat import hide_broken_torchaudio
from residual_st.errors import InputError

if sys.flags.optimize > 1:
    raise InputError("transformers cannot be imported without docstrings; run Python without -OO")
hide_broken_torchaudio()  # before transformers is imported

import residual_st.huggingface.quantizer  # noqa: E402, F401
from residual_st.huggingface.calibration import audio_calibration  # noqa: E402
from residual_st.huggingface.folder import expand, feature_extractor, load, read_config, refuse_existing, save  # noqa: E402
from residual_st.huggingface.languages import directions_of, languages_of  # noqa: E402

__all__ = [
    "audio_calibration",
    "directions_of",
    "expand",
    "feature_extractor",
    "languages_of",
    "load",
    "read_config",
    "refuse_existing",
    "save",
]
