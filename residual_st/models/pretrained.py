"""Starting a component from another checkpoint: `--load-pretrained-encoder-from` and `--load-pretrained-decoder-from`."""

import logging

import torch
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder
from torch import Tensor, nn

from residual_st.checkpoints import first_difference, load_checkpoint
from residual_st.compat import drop_fused_copies, reconcile_versions
from residual_st.compression.pipeline import compress
from residual_st.errors import InputError

logger = logging.getLogger(__name__)


def load_pretrained(component: nn.Module, args, flag: str) -> None:
    """Load `component` (an encoder or a decoder) from the checkpoint that `args.FLAG` names, if any.

    A dense encoder becomes a residual one of this model's plan on the way, by the same code as `residual-st compress`, without
    calibration. A CTC projection is tied to its dictionary, so it is taken over only where it has the same size. Afterwards the
    flag is cleared in `args`: the weights are in this model's own checkpoints from now on, and these must not depend on another
    file.

    Raises:
        InputError: if the file cannot be read, is missing (the stock model would then train from scratch with a warning), is of
            another shape, or is shared by another plan.
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

    def refuse_other_than(model_state: dict[str, Tensor]) -> None:
        difference = first_difference(theirs, model_state)
        if difference:
            raise InputError(f"{option} {path} is of another model than this one: {difference}")

    if theirs and _is_shared(ours) and not _is_shared(theirs):
        with torch.random.fork_rng(devices=[]):  # the draws of a model must not depend on where its encoder comes from
            dense = S2TTransformerEncoder(args)
            drop_fused_copies(dense.transformer_layers)
            reconcile_versions(theirs, dense.state_dict())
            refuse_other_than(dense.state_dict())
            dense.load_state_dict(theirs)
            theirs = _compressed(dense, args, path)
    refuse_other_than(ours)
    component.load_state_dict(theirs)
    logger.info(f"loaded pretrained {part} from: {path}")
    setattr(args, flag, None)


def _is_shared(state: dict[str, Tensor]) -> bool:
    return any(key.startswith("shared_weights.") for key in state)


def _compressed(dense: S2TTransformerEncoder, args, path: str) -> dict[str, Tensor]:
    """The state of a dense encoder in the form of a residual one with these flags."""
    result = compress(
        dense.transformer_layers,
        group_size=args.encoder_group_size,
        pattern=args.encoder_sharing_pattern,
        rank=args.encoder_residual_rank,
        diagonal=args.encoder_residual_diagonal,
    )
    dense.shared_weights = result.shared_weights
    errors = [error for row in result.errors for error in row.values()]
    logger.info(
        f"compressed the dense encoder of {path}: groups {result.plan}, residual rank {result.ranks}, matrix weights "
        f"{result.parameters_before:,} -> {result.parameters_after:,}, relative errors {min(errors):.3f} to {max(errors):.3f}"
    )
    return dense.state_dict()
