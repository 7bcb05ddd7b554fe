"""Faults of fairseq that lose data, checkpoints or runs, patched where its modules are imported, and what else is changed there.

They change stock models' runs too, so each has a name, which the log says, and a switch that turns it off. A new one is a function
under `@patch(NAME)` in the module of its topic, or in another that is imported here, and a row in docs/commands.md.
"""

from residual_st.fairseq.patches import checkpoints, data, speech_models, training  # noqa: F401 - which register theirs
from residual_st.fairseq.patches.registry import PATCHES, SWITCH, apply_patches

__all__ = ["PATCHES", "SWITCH", "apply_patches"]
