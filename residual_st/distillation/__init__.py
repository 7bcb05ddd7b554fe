"""Learning from a trained model: its words' distributions, live or from disk, and its encoder's states."""

from residual_st.distillation.lessons import Distillation, Lesson

__all__ = ["Distillation", "Lesson"]
