"""Patches of fairseq's batching, augmentation and text output."""

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
    """Make batches of all sentences. fairseq-fixed 0.12.3.1 drops the end of a last batch whose size is not a multiple of eight.

    With its default `--required-batch-size-multiple 8`, up to seven sentences of every set are silently lost in training,
    validation and generation. Batches are consecutive parts of the sentences' order, so the missing ones are at its end. fairseq
    0.12.2 loses none.
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
        # batches of fixed shapes are not consecutive and lose nothing
        if kept == len(indices) or keywords.get("fixed_shapes") is not None:
            return batches
        return [*batches, indices[kept:]]

    return True


@patch("seeded-augmentation")
def draw_augmentation_by_sentence() -> None:
    """Seed SpecAugment's masks and other random transforms by the run's seed, the epoch and the sentence.

    fairseq draws them from numpy's global state, which is not in checkpoints: a run that is resumed, or has a different number of
    `--num-workers` or processes, would differ.
    """

    @wrap(SpeechToTextDatasetCreator, "from_tsv")
    def from_tsv(before, cls, *arguments, **keywords):
        dataset = before(cls, *arguments, **keywords)
        for part in _parts(dataset):
            part.augmentation_seed = keywords.get("seed")
            # in shared memory, since data loader workers outlive an epoch
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
    """Join sentencepiece's pieces like sentencepiece, including byte pieces, which fairseq writes as `<0xE7><0x88><0xB1>`."""

    @wrap(SentencepieceBPE, "decode")
    def decode(before, self, text: str) -> str:
        joined = joined_pieces(text.split(" "))
        return before(self, joined.replace(" ", WORD_START))


def _parts(dataset) -> Iterator[SpeechToTextDataset]:
    """The datasets of single manifests in a dataset that concatenates or resamples them."""
    if isinstance(dataset, SpeechToTextDataset):
        yield dataset
    inner = getattr(dataset, "datasets", None) or [part for part in [getattr(dataset, "dataset", None)] if part is not None]
    for part in inner:
        yield from _parts(part)


@contextmanager
def _numpy_seed(*numbers: int) -> Iterator[None]:
    """Seed numpy's global state with these numbers, and restore it afterwards. fairseq's own function hashes them to six digits."""
    state = np.random.get_state()
    np.random.seed([int(number) % 2**32 for number in numbers])
    try:
        yield
    finally:
        np.random.set_state(state)
