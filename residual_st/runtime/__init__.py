"""Exported models: audio in, text out, with numpy and onnxruntime, and without torch, fairseq or sentencepiece.

>>> from residual_st.runtime import Translator
>>> Translator("model").translate("talk.flac").text
"""

from residual_st.runtime.settings import Settings
from residual_st.runtime.translator import Transcript, Translator

__all__ = ["Settings", "Transcript", "Translator"]
