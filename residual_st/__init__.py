"""residual-st: residual-shared speech-to-text Transformers for fairseq. Importing it registers the models and criterions."""

from residual_st.compat import allow_fairseq_checkpoints

allow_fairseq_checkpoints()

from residual_st import criterions, models  # noqa: E402, F401
