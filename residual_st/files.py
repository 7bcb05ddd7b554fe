"""Atomic writing: files and folders appear under their names only when complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from residual_st.errors import InputError

_MARK, _SUFFIX = ".residual-st-", ".partial"


@contextlib.contextmanager
def atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`. It is renamed to `path` at the end, or deleted if the block raises."""
    partial = _partial_path(Path(path))
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text in UTF-8. Only a line feed ends one, not the other separators of `str.splitlines` (U+2028, U+0085, …)."""
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """`atomically` for a folder: yield a temporary folder, which is renamed to `folder` at the end, or deleted if the block raises.

    A symbolic link is followed: its target is written.

    Raises:
        InputError: if the folder cannot be written. Other errors of the block are passed on.
    """
    folder = folder.resolve()
    partial = _partial_path(folder)
    try:
        partial.mkdir()
        yield partial
        _replace(folder, partial)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _is_of(error, folder, partial):
            raise
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(folder: Path, partial: Path) -> None:
    """Rename `partial` to `folder`. An existing folder is renamed first, so that it is never seen half-deleted."""
    if not folder.exists():
        partial.rename(folder)
        return
    aside = partial.with_name(f"{partial.stem}-before{_SUFFIX}")
    folder.rename(aside)
    try:
        partial.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _partial_path(path: Path) -> Path:
    """The temporary path for `path`: `.NAME.residual-st-PID.partial`.

    Temporary files left by killed processes are deleted.
    """
    partial = path.with_name(f".{path.name}{_MARK}{os.getpid()}{_SUFFIX}")
    for leftover in path.absolute().parent.glob(f".*{_MARK}*{_SUFFIX}"):
        name, _, owner = leftover.name.removesuffix(_SUFFIX).rpartition(_MARK)
        if name == f".{path.name}" and (leftover.name == partial.name or not _is_running(owner.partition("-")[0])):
            with contextlib.suppress(OSError):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return partial


def _is_running(process: str) -> bool:
    """Whether a process of this id may exist. Only POSIX systems can tell; elsewhere True."""
    if os.name != "posix" or not process.isdecimal():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process, or not a process id
        return True
    return True


def refuse_separator(path: str | Path) -> None:
    """Raise InputError for a path that fairseq would split, as a list of paths or a position in an archive."""
    if os.pathsep in str(Path(path).absolute()):
        raise InputError(f"{Path(path).absolute()} contains {os.pathsep!r}, where fairseq splits paths; rename the folder")


def _is_of(error: OSError, *folders: Path) -> bool:
    """Whether an error is the system's and concerns these folders, unlike errors on other files or OSErrors raised by libraries.

    The error of a full disk names no file.
    """
    if error.errno is None:
        return False
    return error.filename is None or any(Path(error.filename).is_relative_to(folder) for folder in folders)


def refuse_existing(path: str | Path, force: bool) -> None:
    """Raise InputError, before any work, if an output exists and `force` is not given, or its folder does not exist."""
    if Path(path).is_dir() or (Path(path).exists() and not force):
        raise InputError(f"{path} already exists; name another output, or give --force to overwrite a file")
    require_parent(path)


def refuse_existing_folder(folder: str | Path, force: bool, marker: str) -> None:
    """Raise InputError, before any work, if a folder exists and `force` is not given or it has no file `marker`."""
    folder = Path(folder)
    if folder.exists() and not force:
        raise InputError(f"{folder} already exists; name another output, or give --force to overwrite it")
    if folder.exists() and not (folder / marker).is_file():
        raise InputError(f"{folder} is not a model folder (no {marker}), so --force does not overwrite it; name another output")
    require_parent(folder)


def require_parent(path: str | Path) -> None:
    """Raise InputError if the folder of an output does not exist."""
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: the folder {Path(path).absolute().parent} does not exist")
