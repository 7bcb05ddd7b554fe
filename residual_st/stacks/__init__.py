"""What a stack of layers is, whoever made its layers: torch only, no library of models is imported here.

`stack_of` finds the stack of a model that is known; a `LayerStack` describes any other.
"""

from residual_st.stacks.depth import layer_map
from residual_st.stacks.find import stack_of
from residual_st.stacks.layer_stack import LayerStack, copied, no_padding
from residual_st.stacks.recorder import LayerCall, recorded_calls

__all__ = ["LayerCall", "LayerStack", "copied", "layer_map", "no_padding", "recorded_calls", "stack_of"]
