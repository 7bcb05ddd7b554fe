"""Patches of how fairseq makes batches, augments features and writes texts."""

import multiprocessing
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from fairseq.data import data_utils
from fairseq.data.audio.speech_to_text_dataset import SpeechToTextDataset, SpeechToTextDatasetCreator
from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE

from residual_st.fairseq.patches.registry import patch
from residual_st.pieces import WORD_START, joined_pieces
from residual_st.wrapping import wrap


@patch("last-batches")
def keep_last_batches() -> bool:
    """Have fairseq make batches of all sentences. fairseq-fixed 0.12.3.1 leaves out a last batch that is no multiple of eight.

    With its default `--required-batch-size-multiple 8` up to seven sentences of every set are lost, in training, validation and
    generation, without a message. Batches are consecutive pieces of the order that they are made from, so its end is missing.
    fairseq 0.12.2 loses none.
    """
    if sum(map(len, data_utils.batch_by_size(np.arange(3), None, np.ones(3, dtype=np.int64), 100, None, 2))) == 3:
        return False

    @wrap(data_utils, "batch_by_size")
    def batch_by_size(before, indices, *arguments, **keywords):
        if not isinstance(indices, np.ndarray):
            indices = np.fromiter(indices, dtype=np.int64, count=-1)
        if not len(indices):
            return []
        batches = before(indices, *arguments, **keywords)
        kept = sum(map(len, batches))
        # batches of fixed shapes are not consecutive, and lose none
        if kept == len(indices) or keywords.get("fixed_shapes") is not None:
            return batches
        return [*batches, indices[kept:]]

    return True


@patch("seeded-augmentation")
def draw_augmentation_by_sentence() -> None:
    """Draw SpecAugment's masks, and other random transforms, by the run's seed, the epoch and the sentence.

    fairseq draws them from numpy's global state, which no checkpoint holds: a run that is resumed, or has another number of
    `--num-workers` or of processes, is then another run.
    """

    @wrap(SpeechToTextDatasetCreator, "from_tsv")
    def from_tsv(before, cls, *arguments, **keywords):
        dataset = before(cls, *arguments, **keywords)
        for part in _parts(dataset):
            part.augmentation_seed = keywords.get("seed")
            # in memory that processes share: workers that load data outlive an epoch
            part.augmentation_epoch = multiprocessing.RawValue("l", keywords.get("epoch", 1))
        return dataset

    @wrap(SpeechToTextDataset, "set_epoch")
    def set_epoch(before, self, epoch: int) -> None:
        before(self, epoch)
        if hasattr(self, "augmentation_epoch"):
            self.augmentation_epoch.value = epoch

    @wrap(SpeechToTextDataset, "__getitem__")
    def getitem(before, self, index):
        seed = getattr(self, "augmentation_seed", None)
        if seed is None:
            return before(self, index)
        with _numpy_seed(seed, self.augmentation_epoch.value, zlib.crc32(self.split.encode()), index):
            return before(self, index)


@patch("bytes-as-letters")
def write_bytes_as_letters() -> None:
    """Have fairseq join sentencepiece's pieces as sentencepiece does, bytes included: it writes those as `<0xE7><0x88><0xB1>`."""

    @wrap(SentencepieceBPE, "decode")
    def decode(before, self, text: str) -> str:
        joined = joined_pieces(text.split(" "))
        return before(self, joined.replace(" ", WORD_START))


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
