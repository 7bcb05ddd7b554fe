"""Patches of how fairseq writes and reads checkpoints."""

import argparse
import os
import zipfile

import torch
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel

from residual_st.compat import reconcile_versions
from residual_st.errors import refusing
from residual_st.fairseq.checkpoints import refuse_retired
from residual_st.fairseq.patches.registry import patch
from residual_st.fairseq.unpickling import check_archive
from residual_st.files import atomically
from residual_st.wrapping import wrap


@patch("whole-checkpoint-copies")
def copy_checkpoints_whole() -> None:
    """Let `checkpoint_last.pt` and `checkpoint_best.pt` be whole or the ones before, whenever a run is killed.

    fairseq writes a checkpoint under another name first, but then copies it over these two, from which the run would resume.
    """

    @wrap(PathManager, "copy")
    def copy(before, src_path: str, dst_path: str, overwrite: bool = False) -> bool | str:
        if not (overwrite and os.path.isfile(src_path)):
            return before(src_path, dst_path, overwrite)
        with atomically(dst_path) as partial:
            before(src_path, str(partial), overwrite=True)
        return True


@patch("namespace-flags")
def read_flags_in_namespaces() -> None:
    """Let torch read fairseq's checkpoints, whose flags are a Namespace.

    torch's `load` refuses all classes but a few since 2.6, and fairseq's commands then end with "Weights only load failed". A
    Namespace can run no code; all others are still refused, as they should be: a pickle from elsewhere is a program.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


@patch("checked-checkpoints")
def check_checkpoints() -> None:
    """Look at what a checkpoint says of its sizes before torch is given it.

    torch takes as much memory as a damaged file says, or reads past its end: fairseq's commands are then killed.
    """

    @wrap(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checkpoint_to_cpu(before, path, *arguments, **keywords):
        local = PathManager.get_local_path(path)
        if zipfile.is_zipfile(local):
            with refusing(f"{path} cannot be read as a checkpoint"):
                check_archive(local)
        return before(path, *arguments, **keywords)


@patch("retired-architectures")
def refuse_retired_architectures() -> None:
    """Say what replaces the architecture of a checkpoint that an earlier version of this package wrote.

    fairseq prints all of its flags, behind "Could not infer model type".
    """

    @wrap(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checkpoint_to_cpu(before, path, *arguments, **keywords):
        state = before(path, *arguments, **keywords)
        flags = (state.get("cfg") or {}).get("model")
        refuse_retired(flags.get("arch") if isinstance(flags, dict) else getattr(flags, "arch", None), path)
        return state


@patch("other-versions")
def read_other_versions() -> None:
    """Let models, stock ones too, take checkpoints of the other fairseq that is known here, which saves a little more or less.

    fairseq refuses them for keys that are missing or too many; and where its moving average (`--store-ema`) left out the version
    marks, its decoder drops its last norm without a word.
    """

    @wrap(S2TTransformerModel, "upgrade_state_dict_named")
    def upgrade_state_dict_named(before, self, state_dict, name):
        reconcile_versions(state_dict, self.state_dict())  # first: the marks are looked at below
        return before(self, state_dict, name)


@patch("resuming-processes")
def let_processes_resume() -> None:
    """Let several processes resume from a checkpoint, which one of them reads and sends to the others as a pickle.

    Since torch 2.6 they refuse two classes in it and end: the mark that fairseq puts where a tensor was, which is data and is
    allowed here, and omegaconf's configurations, which are left out, because nobody reads them there.
    """
    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])

    @wrap(distributed_utils, "broadcast_object")
    def broadcast_object(before, obj, *arguments, **keywords):
        if isinstance(obj, dict) and "cfg" in obj:
            obj = {**obj, "cfg": None}
        return before(obj, *arguments, **keywords)
