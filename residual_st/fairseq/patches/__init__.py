"""Patches of fairseq: fixes for faults that lose data, checkpoints or runs, and other changes of fairseq's functions.

They affect stock models too, so each has a name, which is logged, and can be turned off. To add one, write a function with
`@patch(NAME)` in the module of its topic, import the module here, and add a row to docs/commands.md.
"""

from residual_st.fairseq.patches import checkpoints, data, speech_models, training  # noqa: F401 - these register their patches
from residual_st.fairseq.patches.registry import PATCHES, SWITCH, apply_patches

__all__ = ["PATCHES", "SWITCH", "apply_patches"]
