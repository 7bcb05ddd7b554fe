"""Registers models and criterions, and patches fairseq. fairseq imports the files of this folder, not the folder."""

from residual_st.fairseq import criterions, s2t_residual_transformer  # noqa: F401
from residual_st.fairseq.build import build_shared_models
from residual_st.fairseq.flags import give_flags_to_all
from residual_st.fairseq.loading import load_any_form
from residual_st.fairseq.patches import apply_patches

apply_patches()
give_flags_to_all()
build_shared_models()
load_any_form()
