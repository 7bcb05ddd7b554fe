"""A dense model's own words, which take the place of labels: how each sort of model makes them, and the loss on them."""

from residual_st.huggingface.words.batch import AudioBatch, OwnWords
from residual_st.huggingface.words.decoded import DecodedWords

__all__ = ["AudioBatch", "DecodedWords", "OwnWords"]
