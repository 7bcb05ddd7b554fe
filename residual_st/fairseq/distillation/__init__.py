"""Distillation from a teacher: from its word distributions, live or from disk, and from its encoder's hidden states."""

from residual_st.fairseq.distillation.teacher_loss import Distillation, TeacherLoss

__all__ = ["Distillation", "TeacherLoss"]
