"""Checkpoints that would run commands or use much memory if read by pickle or torch."""

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import checkpoint_commands, flags_of

from residual_st.fairseq.checkpoints import load_checkpoint


class Reduced:
    """An object that is pickled as a function call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def programs(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Pickles that would run a command if loaded by pickle."""
    touch = f"touch {work}/case/exploded"
    system = b"cposix\nsystem\n"
    raw = {
        "GLOBAL and REDUCE": b"\x80\x02" + system + b"X" + struct.pack("<I", len(touch)) + touch.encode() + b"\x85R.",
        "INST": f"(S'{touch}'\niposix\nsystem\n.".encode(),
        "OBJ": b"(" + system + b"S'" + touch.encode() + b"'\no.",
        "NEWOBJ": b"\x80\x02" + system + b"X" + struct.pack("<I", len(touch)) + touch.encode() + b"\x85\x81.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93X" + struct.pack("<I", len(touch)) + touch.encode() + b"\x85R.",
        "EXT1": b"\x80\x02\x82\x01.",
        "BUILD": b"\x80\x02cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__"
        + system
        + b"sb"
        + b"X"
        + struct.pack("<I", len(touch))
        + touch.encode()
        + b"b.",
        "persistent id": b"\x80\x02(X\x07\x00\x00\x00storage" + system + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
        "memo of 2^32 entries": b"\x80\x02]r\xff\xff\xff\xff.",
        "bytes of 2^40": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "never ends": b"\x80\x02" + b"(" * 100_000,
    }
    objects = {
        "eval": Reduced(eval, (f"__import__('os').system({touch!r})",)),
        "torch's own loader": Reduced(torch.storage._load_from_bytes, (pickle.dumps(Reduced(os.system, (touch,))),)),
        "getattr": Reduced(getattr, (Reduced(__import__, ("os",)), "system")),
        "codecs and exec": Reduced(exec, (f"import os; os.system({touch!r})",)),
        "numpy": Reduced(np.core.multiarray._reconstruct, (Reduced(os.system, (touch,)), (0,), b"b")),
    }
    commands = list(checkpoint_commands(work).values())
    for name, content in raw.items():
        yield f"{name}, alone", lambda path, content=content: path.write_bytes(content), commands
        yield f"{name}, in an archive", lambda path, content=content: archive(path, content), commands
    for name, value in objects.items():
        yield f"{name}, alone", lambda path, value=value: path.write_bytes(pickle.dumps({"model": value})), commands[:2]
        yield f"{name}, in an archive", lambda path, value=value: torch.save({"model": {}, "x": value}, path), commands
        yield f"{name}, of torch before 1.6", partial(save_as_before, {"model": {}, "x": value}), commands[:2]
    nested = io.BytesIO()
    torch.save({"model": {}, "x": objects["eval"]}, nested)
    yield "an archive in an archive", lambda path: archive(path, nested.getvalue()), commands[:2]


def save_as_before(state: dict, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def archive(path: Path, data_pkl: bytes, records: dict[str, bytes] = {}, compression: int = zipfile.ZIP_STORED) -> None:  # noqa: B006
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data_pkl)
        for name, content in {"byteorder": b"little", "version": b"3\n", **records}.items():
            file.writestr(f"archive/{name}", content)


def bombs(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Small files that claim large contents."""
    state = load_checkpoint(work / "shared.pt")
    commands = [command for name, command in checkpoint_commands(work).items() if name != "convert"]

    def with_weight(value: torch.Tensor) -> Callable:
        return lambda path: torch.save(
            {**state, "model": {**state["model"], "encoder.subsample.conv_layers.0.weight": value}}, path
        )

    yield "expanded to a terabyte", with_weight(torch.zeros(1).expand(2**38)), commands
    yield "of overlapping strides", with_weight(torch.zeros(2**12).as_strided((2**11, 2**11), (1, 1))), commands

    def aliases(path: Path) -> None:
        value = torch.zeros(2**20)
        torch.save({**state, "model": {**state["model"], **{f"alias{number}": value for number in range(4000)}}}, path)

    yield "16 GB of aliases", aliases, commands

    def says(path: Path, numel: int, size: int) -> None:
        torch.save({"model": {"weight": torch.zeros(7)}, "args": None}, path)
        with zipfile.ZipFile(path) as file:
            contents = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
        changed = contents.pop("data.pkl").replace(b"K\x07tq", b"J" + struct.pack("<i", numel) + b"tq")
        changed = changed.replace(b"K\x07\x85", b"J" + struct.pack("<i", size) + b"\x85")
        archive(path, changed, contents)

    yield "a storage longer than its bytes", lambda path: says(path, 2**30, 7), commands
    yield "a tensor longer than its storage", lambda path: says(path, 7, 2**30), commands
    yield "both", lambda path: says(path, 2**30, 2**30), commands

    def deflated(path: Path) -> None:
        with zipfile.ZipFile(work / "shared.pt") as file:
            contents = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
        archive(path, contents.pop("data.pkl"), {**contents, "data/0": bytes(2**30)}, zipfile.ZIP_DEFLATED)

    yield "a gigabyte in a megabyte", deflated, commands

    def quoted(path: Path) -> None:  # many directory entries refer to one record
        archive(path, pickle.dumps({"model": {}}), {"data/0": bytes(2**20)})
        with zipfile.ZipFile(path, "a") as file:
            entry = file.getinfo("archive/data/0")
            for number in range(1, 3000):
                copy = zipfile.ZipInfo(f"archive/data/{number}")
                for field in ("header_offset", "file_size", "compress_size", "CRC"):
                    setattr(copy, field, getattr(entry, field))
                file.filelist.append(copy)
            file._didModify = True

    yield "entries over each other", quoted, commands

    def laughs(levels: int, where: str) -> Callable:
        def write(path: Path) -> None:
            value: object = ["ha"] * 10
            for _ in range(levels):
                value = [value] * 10
            changed = (
                {"extra_state": {"x": value}} if where == "state" else {"cfg": {"model": {**flags_of(state), "dropout": value}}}
            )
            torch.save({**state, **changed}, path)

        return write

    yield "a billion entries of a few", laughs(12, "state"), commands
    yield "a billion entries in a flag", laughs(12, "flag"), commands

    def deep(path: Path) -> None:
        data = b"\x80\x02" + b"]q\x00" * 1 + b"]" * 50_000 + b"a" * 50_000 + b"."
        archive(path, data)

    yield "50,000 lists in each other", deep, commands
