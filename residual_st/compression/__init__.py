"""Trained dense layers to shared ones, and back.

`compress` works on fairseq models and on plain lists of layers. Checkpoints are the matter of `residual_st.fairseq.conversion`.
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
