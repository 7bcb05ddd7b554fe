"""Starting a component from another checkpoint: `--load-pretrained-encoder-from` and `--load-pretrained-decoder-from`."""

import logging

from torch import nn

from residual_st.checkpoints import first_difference, load_checkpoint
from residual_st.compat import reconcile_versions
from residual_st.errors import InputError

logger = logging.getLogger(__name__)


def load_pretrained(component: nn.Module, args, flag: str) -> None:
    """Load `component` (an encoder or a decoder) from the checkpoint that `args.FLAG` names, if any.

    A CTC projection is tied to its dictionary, so it is taken over only where it has the same size. Afterwards the flag is cleared
    in `args`: the weights are in this model's own checkpoints from now on, and these must not depend on another file.

    Raises:
        InputError: if the file cannot be read, is missing (the stock model would then train from scratch with a warning), or is of
            another shape or plan.
    """
    path = getattr(args, flag, None)
    if path is None:
        return
    option = "--" + flag.replace("_", "-")
    part = flag.split("_")[2]
    state = load_checkpoint(path)["model"]
    theirs = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
    ours = component.state_dict()
    reconcile_versions(theirs, ours)
    for key in ("ctc_proj.weight", "ctc_proj.bias"):
        if key in theirs and (key not in ours or theirs[key].shape != ours[key].shape):
            logger.info(f"{key} is not taken from {path}: its dictionary is not this model's")
            del theirs[key]
        if key in ours:
            theirs.setdefault(key, ours[key])
    difference = first_difference(theirs, ours)
    if difference:
        raise InputError(f"{option} {path} is of another model than this one: {difference}")
    component.load_state_dict(theirs)
    logger.info(f"loaded pretrained {part} from: {path}")
    setattr(args, flag, None)
