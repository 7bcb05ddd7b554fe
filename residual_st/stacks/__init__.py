"""Stacks of layers of any model. Needs torch only; no model library is imported here.

`stack_of` finds the stack of a known model, `heaviest_stack` that of any other; `describe_stack` describes how its layers are
called.
"""

from residual_st.stacks.depth import layer_map
from residual_st.stacks.find import heaviest_stack, stack_of, stacks_in
from residual_st.stacks.generic import describe_stack, keeping_activations
from residual_st.stacks.known_layers import KnownLayers
from residual_st.stacks.layer_stack import LayerStack, copied
from residual_st.stacks.layouts import UnclearLayoutError
from residual_st.stacks.padding import no_padding
from residual_st.stacks.recorder import LayerCall, recorded_calls
from residual_st.stacks.symmetries import ESPNET, FAIRSEQ, AttentionHeads, FeedForwardUnits, attention_heads, feed_forward_units

__all__ = [
    "ESPNET",
    "FAIRSEQ",
    "AttentionHeads",
    "FeedForwardUnits",
    "KnownLayers",
    "LayerCall",
    "LayerStack",
    "UnclearLayoutError",
    "attention_heads",
    "copied",
    "describe_stack",
    "feed_forward_units",
    "heaviest_stack",
    "keeping_activations",
    "layer_map",
    "no_padding",
    "recorded_calls",
    "stack_of",
    "stacks_in",
]
