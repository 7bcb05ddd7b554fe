"""Any other model, such as a user dir's: its stack with most weights, with common names of output projections."""

from residual_st.fairseq.kinds.kind import AnyPart, Kind
from residual_st.fairseq.kinds.text_decoder import DECODER

_BRANCH_ENDS = frozenset(
    {
        "out_proj", "fc2",  # fairseq
        "linear_out", "w_2", "pointwise_conv2",  # ESPnet
        "second_linear", "second_pointwise_conv1d",  # FBK-fairseq
    }
)  # fmt: skip

ENCODER = AnyPart("encoder", _BRANCH_ENDS)
KIND = Kind("other", models=(), encoder=ENCODER, decoder=DECODER)
