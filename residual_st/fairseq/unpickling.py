"""Safe unpickling of untrusted checkpoints: no class or function named in them is imported, called or instantiated.

torch's `weights_only=True` refuses the whole checkpoint if it contains an object of any but a few classes. Here every class and
function named in a pickle is replaced by a placeholder, tensors are built from their bytes, and the result consists of plain
containers.

Sizes in a file are checked before torch reads it: torch allocates as much memory as the file claims, and reads past the end of a
smaller storage.
"""

import argparse
import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class Placeholder:
    """An object of an unknown class: the class's name and the pickled state."""

    class_name = ""

    def __init__(self, *arguments, **_keywords):
        self.arguments, self.state = arguments, None

    def __call__(self, *_arguments, **_keywords) -> "Placeholder":
        return self

    def __setstate__(self, state) -> None:
        self.state = state

    def __setitem__(self, key, value) -> None:  # for subclasses of dict
        pass

    def append(self, value) -> None:  # for subclasses of list
        pass


def load_safely(path: str | Path) -> tuple[Any, list[str]]:
    """The contents of a file written by `torch.save` (zip format, torch 1.6 and later), and the names of the classes left out.

    Objects of unknown classes are dropped from dicts, and replaced by None in lists. `argparse.Namespace` and omegaconf's
    configurations, which contain training flags, are returned as a Namespace and as plain containers.

    Raises:
        Exception: of almost any class, if the file is damaged.
    """
    with _opened(path) as (archive, folder):
        content = _Unpickler(archive, folder, _Storage.read).load()
    dropped: set[str] = set()
    return _plain(content, dropped, {}), sorted(dropped)


def check_archive(path: str | Path) -> None:
    """Raise an exception, of almost any class, unless a file in torch's zip format contains everything that it claims.

    Entries must not be compressed or overlap, so that reading takes no more memory than the file's size. Storages must have the
    length given in the pickle, and tensors must lie within their storage and not be larger. Checksums detect flipped bits.
    """
    with _opened(path) as (archive, folder):
        damaged = archive.testzip()
        if damaged:
            raise pickle.UnpicklingError(f"its {damaged} does not match its checksum")
        _Unpickler(archive, folder, _Storage).load()


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """The archive, and the folder in it that torch reads, with its `/`."""
    size = Path(path).stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = {entry.filename for entry in entries}
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
            raise pickle.UnpicklingError("it is compressed, unlike torch's files")
        if len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
            raise pickle.UnpicklingError("its parts overlap")
        folder = entries[0].filename.partition("/")[0] + "/"
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise pickle.UnpicklingError("its byte order is not little-endian")
        yield archive, folder


class _Storage:
    """A storage with known length but without data; `read` returns one with its elements."""

    def __init__(self, archive: zipfile.ZipFile, name: str, dtype: torch.dtype, length: int):
        self.length = archive.getinfo(name).file_size // dtype.itemsize
        if not isinstance(length, int) or length != self.length:
            raise pickle.UnpicklingError(f"its {name} does not have the length given in the pickle")

    @staticmethod
    def read(archive: zipfile.ZipFile, name: str, dtype: torch.dtype, length: int) -> Tensor:
        _Storage(archive, name, dtype, length)
        return torch.frombuffer(bytearray(archive.read(name)), dtype=dtype) if length else torch.empty(0, dtype=dtype)

    def as_strided(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> "_Storage":
        _check_view(self.length, size, stride, offset)
        return self


def _check_view(length: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
    """Raise an exception unless a tensor lies within a storage of `length` elements and is not larger."""
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise pickle.UnpicklingError("a tensor's shape or strides are not valid")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride))
    elements = math.prod(size)
    if elements > length or (elements and last >= length):
        raise pickle.UnpicklingError("a tensor is larger than its storage")


def _view(storage: "_Storage | Tensor", offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_) -> "_Storage | Tensor":
    _check_view(storage.length if isinstance(storage, _Storage) else len(storage), size, stride, offset)
    return storage.as_strided(size, stride, offset)


class _Unpickler(pickle._Unpickler):
    """Every callable that a pickle can reach is created for one file, so that it can neither change nor run anything outside.

    Uses Python's unpickler written in Python: the C version allocates as much memory as the numbers in a file claim.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str, storage):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")), encoding="latin1")
        self._archive, self._folder, self._storage = archive, folder, storage
        self._storages: dict[tuple, Any] = {}
        self._classes: dict[str, type] = {}
        mapping = type("Mapping", (dict,), {})
        self._known = {
            "collections.OrderedDict": mapping,
            "collections.defaultdict": lambda *_: mapping(),
            "torch._utils._rebuild_tensor_v2": _view,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
            "torch.Size": lambda sizes: tuple(sizes),
            "_codecs.encode": lambda text, _encoding: text.encode("latin1"),
            "numpy.core.multiarray.scalar": _numpy_scalar,
            "numpy._core.multiarray.scalar": _numpy_scalar,
        }

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if full_name in self._known:
            return self._known[full_name]
        if full_name not in self._classes:
            self._classes[full_name] = type("Placeholder", (Placeholder,), {"class_name": full_name})
        return self._classes[full_name]

    def persistent_load(self, pid: tuple) -> "_Storage | Tensor":
        """A flat storage; tensors that are views of one storage share it here too."""
        kind, dtype, key, _device, length = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage has an unknown type")
        if (key, dtype) not in self._storages:
            self._storages[key, dtype] = self._storage(self._archive, f"{self._folder}data/{key}", dtype, length)
        return self._storages[key, dtype]


def _numpy_scalar(dtype: Placeholder, data: bytes) -> int | float | bool:
    if not isinstance(data, bytes) or np.dtype(dtype.arguments[0]).kind not in "biuf":
        raise pickle.UnpicklingError("a numpy scalar is not a number")
    return np.frombuffer(data, np.dtype(dtype.arguments[0]))[0].item()


class _Dropped:
    pass


def _plain(value: Any, dropped: set[str], made: dict[int, Any]) -> Any:
    """The value in plain containers. A value that occurs several times is converted once and cached in `made` by its id."""
    if id(value) not in made:
        made[id(value)] = _made_plain(value, dropped, made)
    return made[id(value)]


def _made_plain(value: Any, dropped: set[str], made: dict[int, Any]) -> Any:
    if isinstance(value, dict):
        items = {key: _plain(item, dropped, made) for key, item in value.items() if not isinstance(key, Placeholder)}
        return {key: item for key, item in items.items() if item is not _Dropped}
    if isinstance(value, (list, tuple)):
        entries = [_plain(item, dropped, made) for item in value]
        return type(value)(None if entry is _Dropped else entry for entry in entries)
    if isinstance(value, type) and issubclass(value, Placeholder):  # a class or function itself
        dropped.add(value.class_name)
        return _Dropped
    if not isinstance(value, Placeholder):
        return value
    state = value.state
    if isinstance(state, dict) and value.class_name == "argparse.Namespace":
        return argparse.Namespace(**_plain(state, dropped, made))
    if isinstance(state, dict) and value.class_name.startswith("omegaconf."):
        for name in ("_content", "_val"):
            if name in state:
                return _plain(state[name], dropped, made)
    dropped.add(value.class_name)
    return _Dropped
