"""Other fairseq user dirs used together with this one, since fairseq takes only one. Imports torch and fairseq at loading."""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from residual_st.errors import InputError, reason
from residual_st.fairseq.user_dir import PACKAGE
from residual_st.files import atomically


@dataclass(frozen=True)
class UserDir:
    """A package that registers models with fairseq: its import name, and the folder that contains it."""

    name: str
    root: str

    @property
    def path(self) -> Path:
        return Path(self.root, *self.name.split("."))

    @property
    def is_this_package(self) -> bool:
        return self.path.resolve() == PACKAGE.resolve()

    def load(self) -> None:
        """Import it like fairseq imports a user dir: the package, then the files of its `tasks` and `models`.

        The root is first on Python's path during the import, and last afterwards: it may contain a fork of fairseq, which processes
        started with the same path must not import.

        Raises:
            InputError: if its models are registered twice, or another package of that name is already imported.
        """
        from fairseq.models import import_models
        from fairseq.tasks import import_tasks

        top = self.name.partition(".")[0]
        if top in sys.modules and getattr(sys.modules[top], "__file__", None) is None:
            del sys.modules[top]  # fairseq itself imports `examples`, which may be any folder of that name without code
        sys.path.insert(0, self.root)
        try:
            package = importlib.import_module(self.name)
            folders = [Path(folder) for folder in getattr(package, "__path__", ())]
            if not any(place.is_relative_to(self.root) for place in (*folders, Path(package.__file__ or ""))):
                raise InputError(f"{self.path} cannot be imported, because {self.name} is already {package.__file__}; rename one")
            for part, import_part in (("tasks", import_tasks), ("models", import_models)):
                for folder in folders:
                    if (folder / part).is_dir():
                        import_part(str(folder / part), f"{self.name}.{part}")
        except ValueError as error:
            if "duplicate" not in str(error):
                raise
            name = self._other_name() or f"package.{self.name}"
            hint = f"if it imports itself by another name, give that name, as in --with {name}"
            raise InputError(f"{self.path} cannot be imported: {reason(error)}; {hint}") from error
        finally:
            sys.path.remove(self.root)
            sys.path.append(self.root)

    def _other_name(self) -> str | None:
        """Another name under which the same folder was imported, if any."""
        for name, module in list(sys.modules.items()):
            if name != self.name and str(self.path) in list(vars(module).get("__path__", ())):
                return name
        return None


def find_user_dir(other: str) -> UserDir:
    """The user dir in a folder, or a module such as `examples.speech_to_text`. Nothing is imported.

    If a folder's files import each other by a longer name than the folder's own, it is imported by that name. With the folder's
    name, as in fairseq, everything would be registered twice.

    Args:
        other: a folder, or the name of a module in the working directory or on Python's path.

    Raises:
        InputError: if there is no such folder or module, or it contains nothing to import.
    """
    if not Path(other).is_dir():
        return _module(other)
    folder = Path(os.path.abspath(other))
    _require_content(folder)
    imported = {name for file in folder.rglob("*.py") for name in _imports(file)}
    for depth in range(len(folder.parts) - 2, 0, -1):
        name = ".".join(folder.parts[-depth - 1 :])
        if any(f"{each}.".startswith(f"{name}.") for each in imported):
            return UserDir(name, str(folder.parents[depth]))
    if "." in folder.name:
        raise InputError(f"{folder} cannot be imported, because its name contains a dot; rename the folder")
    return UserDir(folder.name, str(folder.parent))


def _module(name: str) -> UserDir:
    parts = name.split(".")
    missing = InputError(
        f"{name} is neither a folder nor a module on Python's path; give the folder of a fairseq user dir, or package.module"
    )
    if not all(part.isidentifier() for part in parts):
        raise missing
    # not importlib.util.find_spec of the whole name, which runs the parent packages
    spec = PathFinder.find_spec(parts[0], [os.getcwd()])
    if spec is None and parts[0] not in sys.modules:
        spec = importlib.util.find_spec(parts[0])
    for part in parts[1:]:
        folders = (spec and spec.submodule_search_locations) or ()
        spec = PathFinder.find_spec(part, [*folders]) if folders else None
    if spec is None or not spec.has_location and not spec.submodule_search_locations:  # a built-in module has no file
        raise missing
    folders = spec.submodule_search_locations or ()
    place = Path(os.path.abspath(next(iter(folders), spec.origin or "")))
    if folders:
        _require_content(place)
    return UserDir(name, str(place.parents[len(parts) - 1]))


def _require_content(folder: Path) -> None:
    if not any((folder / name).exists() for name in ("__init__.py", "models", "tasks")):
        raise InputError(f"{folder} is not a fairseq user dir: it must contain __init__.py, models or tasks")


def _imports(file: Path) -> list[str]:
    return re.findall(r"^\s*(?:from|import)\s+(\w[\w.]*)", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)


_BOTH = '''\
"""Written by `residual-st user-dir --with …`: other fairseq user dirs, then residual_st, which adds its flags to them."""

import sys

sys.path.insert(0, {root!r})

from residual_st.fairseq.other_user_dirs import UserDir

{loads}
import residual_st.models
'''


def user_dir_with(others: Iterable[str]) -> Path:
    """The folder of a package that imports these user dirs (see `find_user_dir`) and then this one.

    It is in the user's cache (`XDG_CACHE_HOME` or ~/.cache), under a name derived from its contents.
    """
    user_dirs = [each for each in map(find_user_dir, others) if not each.is_this_package]
    if not user_dirs:
        return PACKAGE
    names = [each.name for each in user_dirs]
    twice = next((each for each in user_dirs if names.count(each.name) > 1), None)
    if twice:
        raise InputError(
            f"two user dirs have the name {twice.name}, but Python imports only one package per name; rename one of the folders"
        )
    loads = "\n".join(f"{each!r}.load()" for each in user_dirs)
    text = _BOTH.format(root=str(PACKAGE.parent), loads=loads)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    label = "_and_".join(re.sub(r"\W", "_", name) for name in names)
    folder = cache / "residual-st" / f"residual_st_with_{label}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / "__init__.py").exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomically(folder / "__init__.py") as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error.strerror}; set XDG_CACHE_HOME to another folder") from error
    return folder
