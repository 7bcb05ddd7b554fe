"""Learning from a trained model: its words' distributions, live or from disk, and its encoder's states."""

from residual_st.distillation.losses import state_difference, word_divergence
from residual_st.distillation.states import layer_map, recorded_states
from residual_st.distillation.teacher import CachedTeacher, LiveTeacher, open_teacher

__all__ = [
    "CachedTeacher",
    "LiveTeacher",
    "layer_map",
    "open_teacher",
    "recorded_states",
    "state_difference",
    "word_divergence",
]
