"""Checkpoints from elsewhere, read as data: nothing that they name is imported, called or built.

torch's `weights_only=True` refuses a checkpoint as a whole where it holds an object of any class but a few. Here every class and
function that a pickle names stands for a placeholder, tensors are made from their bytes, and what comes out are plain containers.
"""

import argparse
import io
import pickle
import zipfile
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
    """An object of a class that is not known here: its class's name, and the state it was pickled with."""

    class_name = ""

    def __init__(self, *arguments, **_keywords):
        self.arguments, self.state = arguments, None

    def __call__(self, *_arguments, **_keywords) -> "Placeholder":
        return self

    def __setstate__(self, state) -> None:
        self.state = state

    def __setitem__(self, key, value) -> None:  # of a subclass of dict
        pass

    def append(self, value) -> None:  # of a subclass of list
        pass


def read_inert(path: str | Path) -> tuple[Any, list[str]]:
    """What `torch.save` wrote to a file (its zip format, torch 1.6 and later), and the names of the classes that were left out.

    Objects of unknown classes are left out of dicts, and None in lists. `argparse.Namespace` and omegaconf's configurations,
    which hold training flags, come back as a Namespace and as plain containers.

    Raises:
        Exception: of almost any class, where the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        folder = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        content = _Unpickler(archive, folder).load()
    dropped = set()
    return _plain(content, dropped), sorted(dropped)


class _Unpickler(pickle.Unpickler):
    """Every callable that a pickle can reach is made anew for one file, so that nothing outside can be changed or run."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")), encoding="latin1")
        self._archive, self._folder, self._storages, self._classes = archive, folder, {}, {}
        mapping = type("Mapping", (dict,), {})
        self._known = {
            "collections.OrderedDict": mapping,
            "collections.defaultdict": lambda *_: mapping(),
            "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset),
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

    def persistent_load(self, pid: tuple) -> Tensor:
        """A storage, flat; the tensors that are views of one storage share it here too."""
        kind, dtype, key, _device, _size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown type")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _numpy_scalar(dtype: Placeholder, data: bytes) -> int | float | bool:
    if not isinstance(data, bytes) or np.dtype(dtype.arguments[0]).kind not in "biuf":
        raise pickle.UnpicklingError("a numpy scalar that is no number")
    return np.frombuffer(data, np.dtype(dtype.arguments[0]))[0].item()


class _Dropped:
    pass


def _plain(value: Any, dropped: set[str]) -> Any:
    if isinstance(value, dict):
        items = {key: _plain(item, dropped) for key, item in value.items() if not isinstance(key, Placeholder)}
        return {key: item for key, item in items.items() if item is not _Dropped}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, dropped) for item in value]
        return type(value)(None if item is _Dropped else item for item in items)
    if isinstance(value, type) and issubclass(value, Placeholder):  # a class or function itself
        dropped.add(value.class_name)
        return _Dropped
    if not isinstance(value, Placeholder):
        return value
    state = value.state
    if isinstance(state, dict) and value.class_name == "argparse.Namespace":
        return argparse.Namespace(**_plain(state, dropped))
    if isinstance(state, dict) and value.class_name.startswith("omegaconf."):
        for name in ("_content", "_val"):
            if name in state:
                return _plain(state[name], dropped)
    dropped.add(value.class_name)
    return _Dropped
