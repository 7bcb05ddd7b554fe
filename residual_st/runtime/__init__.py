"""Exported models: audio in, text out. Needs numpy and onnxruntime, but not torch, fairseq or sentencepiece.

>>> from residual_st.runtime import Translator
>>> Translator("model").translate("talk.flac").text
"""

from residual_st.runtime.settings import Settings
from residual_st.runtime.translator import Transcript, Translator

__all__ = ["Settings", "Transcript", "Translator"]
