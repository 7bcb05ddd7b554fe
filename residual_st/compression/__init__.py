"""Trained dense layers to shared ones, and back.

`compress` works on fairseq models and on plain lists of layers; `read_model`, `residual_checkpoint` and `dense_checkpoint` on
checkpoints.
"""

from residual_st.compression.moments import Calibration
from residual_st.compression.pipeline import Compressed, compress

__all__ = ["Calibration", "Compressed", "compress"]
