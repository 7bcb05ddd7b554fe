"""The error for invalid input, and the conversion of other libraries' errors to it."""

import contextlib
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version


class InputError(ValueError):
    """A flag, a file or a checkpoint that cannot be used. The message is one sentence: what is wrong, and what is accepted."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn any error that the block raises into an InputError that begins with `what`.

    For calls into fairseq, torch, SentencePiece and other libraries with a user's flags, files or weights: they raise errors of any
    class for invalid input. A ModuleNotFoundError passes: the input did not cause it.
    """
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise InputError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """One line that describes an error of another library."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (RuntimeError, ValueError, OSError)) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def printable(text: str) -> str:
    """A text, which may quote an untrusted file, on one line and without terminal control characters."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def missing_package(error: ModuleNotFoundError, extra: str | None = None) -> str:
    """One sentence with the pip command that installs what a failed import needs.

    The command lists the packages themselves: this package is on no index, and the folder it was installed from may be gone.

    Args:
        extra: the extra whose packages are listed if it contains the missing one. Otherwise the smallest extra that contains it is
            used, and for torch the extra `fairseq`, which most commands need too.
    """
    package = (error.name or "").partition(".")[0]
    if package == "fairseq":
        return f"fairseq is not installed: {_install_fairseq()}, or install the fork that you use"
    extras, requirement = _extras(), package.replace("_", "-")
    offers = [name for name in sorted(extras, key=lambda name: len(extras[name])) if requirement in extras[name]]
    if not offers:
        return f"the package {package} is not installed"
    if extra not in offers:
        extra = "fairseq" if package == "torch" else offers[0]
    chosen = extras[extra]
    needed = [
        line for name, line in chosen.items() if name == requirement or not (name.startswith("fairseq") or _is_installed(name))
    ]
    return f"the package {package} is not installed: pip install {shlex.join(needed)}"


def _install_fairseq() -> str:
    """The commands of `.ci/install`; the reasons are given there."""
    if sys.version_info < (3, 11):
        return "pip install 'pip<24.1' && pip install fairseq==0.12.2"
    return "pip install numpy cython setuptools wheel && pip install --no-build-isolation 'fairseq-fixed>=0.12.3.1'"


def _extras() -> dict[str, dict[str, str]]:
    """Extra -> package -> its requirement, from this package's metadata; empty if it is not installed."""
    extras: dict[str, dict[str, str]] = {}
    with contextlib.suppress(PackageNotFoundError):
        for line in requires("residual-st") or []:
            requirement, _, condition = line.partition(";")
            package = re.match(r"[\w.-]+", requirement)
            if package and (extra := re.search(r"extra == ['\"]([\w-]+)", condition)):
                extras.setdefault(extra[1], {})[package[0]] = requirement.strip()
    return extras


def _is_installed(package: str) -> bool:
    with contextlib.suppress(PackageNotFoundError):
        return bool(version(package))
    return False
