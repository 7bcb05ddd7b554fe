"""Compression of trained dense layers to shared ones.

`compress` works on models and on plain lists of layers. For checkpoints see `residual_st.fairseq.conversion`.
"""

from residual_st.compression.config import CompressionConfig
from residual_st.compression.moments import Calibration
from residual_st.compression.parts import fractions_of_parts
from residual_st.compression.pipeline import Compressed, compress, plan_form
from residual_st.compression.search import Probe, compress_within

__all__ = [
    "Calibration",
    "Compressed",
    "CompressionConfig",
    "Probe",
    "compress",
    "compress_within",
    "fractions_of_parts",
    "plan_form",
]
