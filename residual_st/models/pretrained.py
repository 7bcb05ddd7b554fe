"""Starting a component from another checkpoint: `--load-pretrained-encoder-from` and `--load-pretrained-decoder-from`."""

import logging
from pathlib import Path

from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from torch import Tensor, nn

from residual_st.errors import InputError

logger = logging.getLogger(__name__)


def load_pretrained(component: nn.Module, args, flag: str) -> None:
    """Load `component` (an encoder or a decoder) from the checkpoint that `args.FLAG` names, if any.

    A CTC projection is tied to its dictionary, so it is taken over only where it has the same size. Afterwards the flag is cleared
    in `args`: the weights are in this model's own checkpoints from now on, and these must not depend on another file.

    Raises:
        InputError: if the file is missing (the stock model would train from scratch with a warning) or is of another shape or plan.
    """
    path = getattr(args, flag, None)
    if path is None:
        return
    option = "--" + flag.replace("_", "-")
    if not Path(path).exists():
        raise InputError(f"{option} {path} does not exist; give a checkpoint, or leave the option out to start from random weights")
    part = flag.split("_")[2]
    state = load_checkpoint_to_cpu(path)["model"]
    theirs = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
    ours = component.state_dict()
    for key in [key for key in {**ours, **theirs} if key.startswith("ctc_proj.")]:
        if key not in theirs or key not in ours or theirs[key].shape != ours[key].shape:
            logger.info(f"{key} is not taken from {path}: its dictionary differs")
            theirs.pop(key, None)
            if key in ours:
                theirs[key] = ours[key]
    difference = first_difference(theirs, ours)
    if difference:
        raise InputError(f"{option} {path} is of another model than this one: {difference}")
    component.load_state_dict(theirs)
    logger.info(f"loaded pretrained {part} from: {path}")
    setattr(args, flag, None)


def first_difference(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str | None:
    """What first keeps the state dict `theirs` from being loaded into a model with the state dict `ours`, in words."""
    if not theirs:
        return "it holds no such part"
    plan = next((key for key in {**ours, **theirs} if key.endswith("shared_weights.layer_groups")), None)
    if plan:
        sharing = [_sharing(state.get(plan)) for state in (theirs, ours)]
        if sharing[0] != sharing[1]:
            return f"it {sharing[0]}, this one {sharing[1]}"
    for key, value in ours.items():
        if key not in theirs:
            return f"it has no {key}"
        if theirs[key].shape != value.shape:
            return f"its {key} is of shape {tuple(theirs[key].shape)}, this one's of {tuple(value.shape)}"
    extra = next((key for key in theirs if key not in ours), None)
    return f"it has {extra}, which this one lacks" if extra else None


def _sharing(groups: Tensor | None) -> str:
    return "has a dense encoder" if groups is None else f"shares its layers as {','.join(map(str, groups.tolist()))}"
