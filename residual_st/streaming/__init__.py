"""Live translation and transcription with exported models. Needs numpy and onnxruntime, but not torch.

>>> from residual_st.streaming import Stream
>>> stream = Stream("model")
>>> for update in stream.feed(samples):
...     print(update.text, update.tail)
"""

from residual_st.streaming.policies import POLICIES
from residual_st.streaming.stream import Stream, Update

__all__ = ["POLICIES", "Stream", "Update"]
