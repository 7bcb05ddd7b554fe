"""Registers models and criterions, and patches fairseq. fairseq imports the files of this folder, not the folder."""

from residual_st.fairseq import criterions, s2t_residual_transformer  # noqa: F401
from residual_st.fairseq.patches import apply_patches

apply_patches()
