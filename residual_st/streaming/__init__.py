"""Text of speech while it is spoken, with exported models: numpy and onnxruntime, and no torch.

>>> from residual_st.streaming import Stream
>>> stream = Stream("model")
>>> for update in stream.feed(samples):
...     print(update.text, update.tail)
"""

from residual_st.streaming.policies import POLICIES
from residual_st.streaming.stream import Stream, Update

__all__ = ["POLICIES", "Stream", "Update"]
