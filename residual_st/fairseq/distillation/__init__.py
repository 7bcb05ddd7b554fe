"""Training with a teacher: its word distributions, live or from disk, and its encoder's hidden states."""

from residual_st.fairseq.distillation.lessons import Distillation, Lesson

__all__ = ["Distillation", "Lesson"]
