"""Training with a teacher: its word distributions, live or from disk, and its encoder's hidden states."""

from residual_st.fairseq.distillation.teacher_loss import Distillation, TeacherLoss

__all__ = ["Distillation", "TeacherLoss"]
