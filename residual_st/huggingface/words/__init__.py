"""A dense model's own output words, which replace labels: how each type of model generates them, and the loss on them."""

from residual_st.huggingface.words.batch import AudioBatch, OwnWords
from residual_st.huggingface.words.ctc import CtcWords
from residual_st.huggingface.words.decoded import DecodedWords
from residual_st.huggingface.words.states import EncodedStates

__all__ = ["AudioBatch", "CtcWords", "DecodedWords", "EncodedStates", "OwnWords"]
