"""The one error for input that cannot be used, and the one place where errors of other code become it."""

import contextlib
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires


class InputError(ValueError):
    """A flag, a file or a checkpoint that cannot be used. The message is one sentence: what it is, and what would be right."""


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn any error that the block raises into an InputError that begins with `what`.

    For calls into fairseq, torch, SentencePiece and the like with a user's flags, files or weights: they raise errors of every
    class for input that they cannot use. A package that is missing is not the input's fault and passes.
    """
    try:
        yield
    except (InputError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise InputError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """One line on an error of other code."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, (RuntimeError, ValueError, OSError)) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def printable(text: str) -> str:
    """A text, which may quote a stranger's file, on one line and without characters that a terminal obeys."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def missing_package(error: ModuleNotFoundError, extra: str | None = None) -> str:
    """What to install, in one sentence, where an import failed.

    Args:
        extra: the package's extra to name if it brings what is missing; otherwise the smallest that does, and for torch fairseq's,
            which most commands need too.
    """
    package = (error.name or "").partition(".")[0]
    extras = _extras()
    offers = [name for name in sorted(extras, key=lambda name: len(extras[name])) if package.replace("_", "-") in extras[name]]
    if package == "fairseq":
        return "fairseq is not installed: pip install --no-build-isolation 'residual-st[fairseq]', or install the fork that you use"
    if not offers:
        return f"the package {package} is not installed"
    chosen = extra if extra in offers else "fairseq" if package == "torch" else offers[0]
    return f"the package {package} is not installed: pip install 'residual-st[{chosen}]'"


def _extras() -> dict[str, set[str]]:
    """Extra -> the packages that it brings, from this package's own metadata; nothing where it is used without installation."""
    extras = {}
    with contextlib.suppress(PackageNotFoundError):
        for line in requires("residual-st") or []:
            extra = re.search(r"extra == ['\"]([\w-]+)", line)
            if extra:
                extras.setdefault(extra[1], set()).add(re.match(r"[\w.-]+", line)[0])
    return extras
