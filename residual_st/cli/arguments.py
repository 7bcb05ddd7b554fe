"""Arguments shared by several commands."""

import argparse
from pathlib import Path

from residual_st.errors import InputError

MOST_THREADS = 1024


def summary_of(module) -> str | None:
    """The first line of a command's docstring, for its help; None if Python dropped docstrings (`-OO`)."""
    return module.__doc__ and module.__doc__.splitlines()[0]


def list_of(kind: type, at_least: float | None = None):
    """An argparse type: comma-separated values. Numbers must be above 0, or at least `at_least` if that is given."""

    def parse(text: str) -> list:
        values = [kind(item) for item in text.split(",")]
        for value in values:
            if kind is not str and (value <= 0 if at_least is None else value < at_least):
                raise argparse.ArgumentTypeError(f"{value} must be {'above 0' if at_least is None else f'at least {at_least:g}'}")
        return values

    parse.__name__ = f"comma-separated list of {kind.__name__}"  # shown by argparse when it refuses a value
    return parse


def add_output_arguments(parser: argparse.ArgumentParser, metavar: str, help: str = "file to write") -> None:
    """Add --output and --force, for `refuse_existing`."""
    parser.add_argument("--output", required=True, metavar=metavar, help=help)
    parser.add_argument("--force", action="store_true", help="overwrite the output if it exists")


def add_user_dir_argument(parser: argparse.ArgumentParser) -> None:
    """Add --user-dir, a user dir that registers a checkpoint's model. It is imported before the command runs."""
    parser.add_argument(
        "--user-dir",
        metavar="OTHER",
        help="fairseq user dir that registers the checkpoint's model: a folder or package.module, as for user-dir --with",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device, for `chosen_device`."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="torch device that runs the model, such as cuda (default: cpu)"
    )


def chosen_device(name: str):
    """The torch.device of that name. Raises InputError if torch cannot use it on this machine."""
    import torch

    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it stores no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used ({reason}); it must be cpu, or cuda where torch sees a GPU") from error
    return device


def add_direction_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str) -> None:
    """Add --task, --source-lang and --target-lang, for `residual_st.languages.Direction`.

    Args:
        default: description of the default values, for the help texts.
    """
    parser.add_argument("--task", metavar="TASK", help=f"Whisper's task: transcribe or translate (default: {default})")
    parser.add_argument(
        "--source-lang",
        metavar="LANG",
        help=f"spoken language for Whisper, such as es or Spanish, or auto to detect it (default: {default})",
    )
    parser.add_argument("--target-lang", metavar="LANG", help=f"language to translate into, such as de (default: {default})")


def option_of(name: str) -> str:
    """The option of an argument's name: `max_loss` -> `--max-loss`."""
    return f"--{name.replace('_', '-')}"


def check_ranges(args: argparse.Namespace, ranges: dict[str, tuple[int, int]]) -> None:
    """Raise InputError for an option, by name, whose value is not within its least and highest value. None passes."""
    for name, (least, most) in ranges.items():
        if (value := getattr(args, name)) is not None and not least <= value <= most:
            raise InputError(f"{option_of(name)} {value} must be from {least} to {most:,}")


class Renamed(argparse.Action):
    """A flag of an earlier release. It is refused with a message that names its replacement, `const`."""

    def __init__(self, option_strings, dest, const):
        super().__init__(option_strings, dest, const=const, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} {values} is no longer a flag: {self.const}")


def check_writable(output: Path, plot: Path | None = None) -> None:
    """Raise InputError before the measurements start if their results cannot be written."""
    for path in filter(None, (output, plot)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path == output:
                path.open("a").close()
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error


def add_data_arguments(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add --config-yaml and --subset, for training data that was renamed since the checkpoint was written."""
    parser.add_argument(
        "--config-yaml", metavar="NAME", help="data configuration file in the data folder (default: named in the checkpoint)"
    )
    parser.add_argument("--subset", metavar="NAME[,NAME]", help=f"{purpose} (default: the checkpoint's training subsets)")
