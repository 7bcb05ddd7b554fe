"""Faults of fairseq that lose data, checkpoints or runs, patched where its modules are imported; see `mend`."""

import functools
import multiprocessing
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data import data_utils
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset, SpeechToTextDatasetCreator
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from fairseq.nan_detector import NanDetector
from fairseq.trainer import Trainer

from residual_st.compat import reconcile_versions
from residual_st.errors import refusing
from residual_st.fairseq.unpickling import check_archive
from residual_st.files import atomically
from residual_st.pieces import joined_pieces


def mend() -> None:
    """Apply all repairs; a second call changes nothing. What fairseq does right it still does itself."""
    if not hasattr(SpeechToTextDataset.__getitem__, "__wrapped__"):
        keep_last_batches()
        copy_checkpoints_whole()
        distribute_on_cpus()
        check_checkpoints()
        read_other_versions()
        let_processes_resume()
        fill_up_with_training_batches()
        draw_augmentation_by_sentence()
        say_where_gradients_broke()
        write_bytes_as_letters()


def keep_last_batches() -> None:
    """Have fairseq make batches of all sentences. fairseq-fixed 0.12.3.1 leaves out a last batch that is no multiple of eight.

    With its default `--required-batch-size-multiple 8` up to seven sentences of every set are lost, in training, validation and
    generation, without a message. Batches are consecutive pieces of the order that they are made from, so its end is missing.
    """
    original = data_utils.batch_by_size
    if sum(map(len, original(np.arange(3), None, np.ones(3, dtype=np.int64), 100, None, 2))) == 3:
        return

    @functools.wraps(original)
    def batch_by_size(indices, *arguments, **keywords):
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if not len(indices):
            return []
        batches = original(indices, *arguments, **keywords)
        kept = sum(map(len, batches))
        # batches of fixed shapes are not consecutive, and lose none
        if kept == len(indices) or keywords.get("fixed_shapes") is not None:
            return batches
        return [*batches, indices[kept:]]

    data_utils.batch_by_size = batch_by_size


def copy_checkpoints_whole() -> None:
    """Let `checkpoint_last.pt` and `checkpoint_best.pt` be whole or the ones before, whenever a run is killed.

    fairseq writes a checkpoint under another name first, but then copies it over these two, from which the run would resume.
    """
    original = PathManager.copy

    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool | str:
        if not (overwrite and os.path.isfile(src_path)):
            return original(src_path, dst_path, overwrite)
        with atomically(dst_path) as partial:
            shutil.copyfile(src_path, partial)
        return True

    PathManager.copy = staticmethod(copy)


def check_checkpoints() -> None:
    """Look at what a checkpoint says of its sizes before torch is given it, where fairseq reads one, too."""
    original = checkpoint_utils.load_checkpoint_to_cpu

    @functools.wraps(original)
    def load_checkpoint_to_cpu(path, *arguments, **keywords):
        local = PathManager.get_local_path(path)
        if zipfile.is_zipfile(local):
            with refusing(f"{path} cannot be read as a checkpoint"):
                check_archive(local)
        return original(path, *arguments, **keywords)

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu


def read_other_versions() -> None:
    """Let models, stock ones too, take checkpoints of the other fairseq that is known here, which saves a little more or less."""

    def upgrade_state_dict_named(self, state_dict, name):
        # first the version marks, which fairseq's moving average leaves out: without them the decoder would drop its last norm
        reconcile_versions(state_dict, self.state_dict())
        super(S2TTransformerModel, self).upgrade_state_dict_named(state_dict, name)

    S2TTransformerModel.upgrade_state_dict_named = upgrade_state_dict_named


def distribute_on_cpus() -> None:
    """Let `--ddp-backend pytorch_ddp`, fairseq's default, train on CPUs: torch refuses the GPU's number that fairseq names."""
    original = distributed_fairseq_model.DistributedDataParallel

    @functools.wraps(original, updated=())
    def distributed(module, device_ids=None, output_device=None, **keywords):
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            device_ids = output_device = None
        return original(module, device_ids=device_ids, output_device=output_device, **keywords)

    distributed_fairseq_model.DistributedDataParallel = distributed


def let_processes_resume() -> None:
    """Let processes resume from a checkpoint, which one of them reads and sends to the others as a pickle.

    Since torch 2.6 they refuse two classes in it: the mark that fairseq puts where a tensor was, which is data, and omegaconf's
    configurations, which are left out, because nobody reads them there.
    """
    original = distributed_utils.broadcast_object

    @functools.wraps(original)
    def broadcast_object(obj, *arguments, **keywords):
        if isinstance(obj, dict) and "cfg" in obj:
            obj = {**obj, "cfg": None}
        return original(obj, *arguments, **keywords)

    torch.serialization.add_safe_globals([distributed_utils._TensorPlaceholder])
    distributed_utils.broadcast_object = broadcast_object


def fill_up_with_training_batches() -> None:
    """Where one of several processes has no batch left, let it train on one of the training set, whose loss does not count.

    fairseq takes a batch of the validation set, which a teacher's cache does not hold: the run would end with its first epoch.
    """
    original = Trainer.get_valid_iterator

    @functools.wraps(original)
    def get_valid_iterator(self, *arguments, **keywords):
        batch = self._dummy_batch
        iterator = original(self, *arguments, **keywords)
        if batch is not None:
            self.reset_dummy_batch(batch)
        return iterator

    Trainer.get_valid_iterator = get_valid_iterator


def draw_augmentation_by_sentence() -> None:
    """Draw SpecAugment's masks, and other random transforms, by the run's seed, the epoch and the sentence.

    fairseq draws them from numpy's global state, which no checkpoint holds: a run that is resumed, or has another number of
    `--num-workers` or of processes, is then another run.
    """
    from_tsv, getitem = SpeechToTextDatasetCreator.from_tsv.__func__, SpeechToTextDataset.__getitem__

    @functools.wraps(from_tsv)
    def seeded_from_tsv(cls, *arguments, **keywords):
        dataset = from_tsv(cls, *arguments, **keywords)
        for part in _parts(dataset):
            part.augmentation_seed = keywords.get("seed")
            # in memory that processes share: workers that load data outlive an epoch
            part.augmentation_epoch = multiprocessing.RawValue("l", keywords.get("epoch", 1))
        return dataset

    def set_epoch(self, epoch: int) -> None:
        super(SpeechToTextDataset, self).set_epoch(epoch)
        if hasattr(self, "augmentation_epoch"):
            self.augmentation_epoch.value = epoch

    @functools.wraps(getitem)
    def drawn_getitem(self, index):
        seed = getattr(self, "augmentation_seed", None)
        if seed is None:
            return getitem(self, index)
        with _numpy_seed(seed, self.augmentation_epoch.value, zlib.crc32(self.split.encode()), index):
            return getitem(self, index)

    SpeechToTextDatasetCreator.from_tsv = classmethod(seeded_from_tsv)
    SpeechToTextDataset.set_epoch = set_epoch
    SpeechToTextDataset.__getitem__ = drawn_getitem


def say_where_gradients_broke() -> None:
    """Let a run whose gradients are not finite end with that message, and with the module where it began.

    fairseq repeats the update with hooks on all modules, and torch cannot put one on an encoder, whose output is a dict of lists:
    the run ended with StopIteration.
    """
    original = NanDetector.add_hooks

    @functools.wraps(original)
    def add_hooks(self, module):
        backward, self.backward = self.backward, self.backward and not any(module.children())
        original(self, module)
        self.backward = backward

    NanDetector.add_hooks = add_hooks


def write_bytes_as_letters() -> None:
    """Have fairseq join sentencepiece's pieces as sentencepiece does, bytes included: it writes those as `<0xE7><0x88><0xB1>`."""

    def decode(self, text: str) -> str:
        return joined_pieces(text.split(" ")).strip()

    SentencepieceBPE.decode = decode


def _parts(dataset) -> Iterator[SpeechToTextDataset]:
    """The manifests' datasets inside one that joins or resamples them."""
    if isinstance(dataset, SpeechToTextDataset):
        yield dataset
    inner = getattr(dataset, "datasets", None) or [part for part in [getattr(dataset, "dataset", None)] if part is not None]
    for part in inner:
        yield from _parts(part)


@contextmanager
def _numpy_seed(*numbers: int) -> Iterator[None]:
    """numpy's global state from these numbers, and what it was before afterwards. fairseq's own hashes them to six digits."""
    state = np.random.get_state()
    np.random.seed([int(number) % 2**32 for number in numbers])
    try:
        yield
    finally:
        np.random.set_state(state)
