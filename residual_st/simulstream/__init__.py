"""Speech processors for FBK's simulstream (arXiv 2512.17648), to be named in `type:` of its configurations.

`Stream` does the same as `residual-st listen`; `SlidingWindow` and `StreamAtt` are simulstream's own policies with our models. All
take `model:`, a folder written by `residual-st export`, or a model that it exports, which is then exported on loading: a fairseq
checkpoint, or a Hugging Face folder of Whisper or of a CTC model, dense or compressed.
"""

from residual_st.simulstream.retranslation import SlidingWindow
from residual_st.simulstream.stream import Stream
from residual_st.simulstream.streamatt import StreamAtt

__all__ = ["SlidingWindow", "Stream", "StreamAtt"]
