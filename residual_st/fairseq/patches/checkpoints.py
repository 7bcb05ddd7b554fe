"""Patches of fairseq's writing and reading of checkpoints."""

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
    """Write `checkpoint_last.pt` and `checkpoint_best.pt` atomically, so that they are complete even if a run is killed.

    fairseq writes a checkpoint under another name first, but then copies it over these two, from which a run resumes.
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
    """Allow torch to read fairseq's checkpoints, whose flags are a Namespace.

    Since 2.6, torch's `load` refuses all but a few classes, and fairseq's commands end with "Weights only load failed". A Namespace
    cannot run code. Other classes are still refused, since an untrusted pickle can run code.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


@patch("checked-checkpoints")
def check_checkpoints() -> None:
    """Check the sizes in a checkpoint before torch reads it.

    torch allocates as much memory as a damaged file claims, or reads past its end, and fairseq's commands are killed.
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
    """Name the replacement for an architecture that this package has removed.

    fairseq would print "Could not infer model type" and all flags.
    """

    @wrap(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checkpoint_to_cpu(before, path, *arguments, **keywords):
        state = before(path, *arguments, **keywords)
        flags = (state.get("cfg") or {}).get("model")
        refuse_retired(flags.get("arch") if isinstance(flags, dict) else getattr(flags, "arch", None), path)
        return state


@patch("other-versions")
def read_other_versions() -> None:
    """Allow models, including stock ones, to load checkpoints of the other supported fairseq, which saves slightly different keys.

    fairseq refuses them for missing or unexpected keys. If its moving average (`--store-ema`) dropped the version entries, its
    decoder silently drops its last norm.
    """

    @wrap(S2TTransformerModel, "upgrade_state_dict_named")
    def upgrade_state_dict_named(before, self, state_dict, name):
        reconcile_versions(state_dict, self.state_dict())  # first, because the original function reads the version entries
        return before(self, state_dict, name)


@patch("resuming-processes")
def let_processes_resume() -> None:
    """Allow several processes to resume from a checkpoint, which one of them reads and sends to the others as a pickle.

    Since torch 2.6 they end because of two classes in it: fairseq's placeholder for tensors, which is pure data and allowed here,
    and omegaconf's configurations, which are removed because they are not used.
    """
    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])

    @wrap(distributed_utils, "broadcast_object")
    def broadcast_object(before, obj, *arguments, **keywords):
        if isinstance(obj, dict) and "cfg" in obj:
            obj = {**obj, "cfg": None}
        return before(obj, *arguments, **keywords)
