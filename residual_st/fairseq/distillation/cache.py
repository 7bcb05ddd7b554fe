"""A teacher's most probable words for every target position of a training set, in memory-mapped files."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from residual_st.errors import InputError
from residual_st.files import whole_folder

_PAD = 1  # fairseq's index of padding
_FORMAT = 1


class TeacherCache:
    """A folder with `meta.json`, `spans.npy` and three raw arrays, which are appended to while the teacher runs.

    `spans` (sentences, 2) contains, for each line of the manifest, its first position in the arrays and its number of positions, 0
    if the teacher skipped it. `targets` (positions) are the target words, by which a cache of other data or another dictionary is
    detected; `words` and `log_probs` (positions, k) are the teacher's most probable next words, in float16. Only the pages needed
    by a batch are read, and processes on one machine share them.

    Raises:
        InputError: if the folder is not a complete cache.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        try:
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            if meta["format"] == _FORMAT:
                self.vocabulary_size, self.top_k = meta["vocabulary_size"], meta["top_k"]
                self._spans = np.load(path / "spans.npy")
                shape = (int(self._spans[:, 1].sum()), self.top_k)
                kinds = _kinds(self.vocabulary_size)
                self._targets = np.memmap(path / "targets.bin", kinds["targets"], "r", shape=shape[:1])
                self._words = np.memmap(path / "words.bin", kinds["words"], "r", shape=shape)
                self._log_probs = np.memmap(path / "log_probs.bin", kinds["log_probs"], "r", shape=shape)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path} is not a teacher's cache; create one with residual-st cache-teacher") from error
        if meta["format"] != _FORMAT:
            raise InputError(f"{path} has format {meta['format']}, but {_FORMAT} is needed; create it again")
        self.path = path

    def lookup(self, ids: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Word indices and log-probabilities (batch, length, k), on the device of `target`; zeros for padding.

        Args:
            ids: lines of the manifest (batch,), from 0.
            target: (batch, length), padded on the right.

        Raises:
            InputError: if the cache does not contain this sentence, or has another target for it.
        """
        words = np.zeros((*target.shape, self.top_k), np.int64)
        log_probs = np.zeros((*target.shape, self.top_k), np.float32)
        for row, (sentence, shown) in enumerate(zip(ids.tolist(), target.cpu().numpy())):
            start, length = self._spans[sentence] if sentence < len(self._spans) else (0, 0)
            span = slice(start, start + length)
            if not np.array_equal(shown[shown != _PAD], self._targets[span]):
                raise InputError(
                    f"{self.path} does not contain sentence {sentence} of the training set with this target; "
                    "create the cache from the same manifest and dictionary"
                )
            words[row, :length] = self._words[span]
            log_probs[row, :length] = self._log_probs[span]
        return torch.from_numpy(words).to(target.device), torch.from_numpy(log_probs).to(target.device)


def write_cache(
    path: str | Path, sentences: int, batches: Iterable[tuple[Tensor, Tensor, Tensor]], top_k: int, vocabulary_size: int, **origin
) -> dict[str, int]:
    """Write a cache atomically. Returns its numbers of sentences, positions and bytes.

    Args:
        sentences: number of lines of the manifest.
        batches: ids (batch,), targets (batch, length) and log-probabilities (batch, length, vocabulary).
        origin: provenance, for `meta.json`.

    Raises:
        InputError: if the folder cannot be written.
    """
    kinds, spans, position = _kinds(vocabulary_size), np.zeros((sentences, 2), np.int64), 0
    with whole_folder(Path(path)) as partial:
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context(open(partial / f"{name}.bin", "wb")) for name in kinds}
            for ids, targets, log_probs in batches:
                real = targets.ne(_PAD)
                best = log_probs[real].topk(top_k)
                arrays = {"targets": targets[real], "words": best.indices, "log_probs": best.values}
                for name, values in arrays.items():
                    files[name].write(values.cpu().numpy().astype(kinds[name]).tobytes())
                for sentence, length in zip(ids.tolist(), real.sum(1).tolist()):
                    spans[sentence] = position, length
                    position += length
        np.save(partial / "spans.npy", spans)
        meta = {"format": _FORMAT, "vocabulary_size": vocabulary_size, "top_k": top_k, **origin}
        (partial / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in Path(path).iterdir())
    return {"sentences": int((spans[:, 1] > 0).sum()), "positions": position, "bytes": size}


def _kinds(vocabulary_size: int) -> dict[str, type]:
    index = np.uint16 if vocabulary_size <= 2**16 else np.int32
    return {"targets": index, "words": index, "log_probs": np.float16}
