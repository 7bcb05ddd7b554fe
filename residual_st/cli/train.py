"""Print and run the fairseq-train command that a YAML config describes."""

import argparse
import csv
import difflib
import os
import re
import shlex
import sys
from pathlib import Path

import yaml
from fairseq import options
from fairseq.registry import REGISTRIES

from residual_st.checkpoints import load_checkpoint, model_flags
from residual_st.cli.user_dir import PACKAGE
from residual_st.errors import InputError

# flags that decide which other flags there are
_SELECTORS = ["user-dir", "task", "arch", *(name.replace("_", "-") for name in REGISTRIES)]
TAKES_REST = True  # overrides on the far side of an option, which argparse does not give to a list of positionals
# the form of an encoder: a checkpoint can be fine-tuned in its own only
_FORM_FLAGS = [
    "arch",
    "encoder-layers",
    "encoder-group-size",
    "encoder-sharing-pattern",
    "encoder-residual-rank",
    "encoder-residual-diagonal",
    "encoder-weight-fraction",
]
_MANIFEST_COLUMNS = ["id", "audio", "n_frames", "tgt_text"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file: `data` and fairseq-train's flags without their dashes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="flags to set instead; `key=` drops one")
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")


def run(args: argparse.Namespace) -> int:
    config = take_form(read_config(args.config, args.overrides + args.rest))
    arguments = to_arguments(config)
    flags = validate(arguments)
    print(format_command(arguments), flush=True)
    if args.dry_run:
        return 0
    check_data(flags)
    # fairseq-train under the interpreter that runs now, whatever PATH says; it takes this process's place, and its signals
    return os.execv(sys.executable, [sys.executable, "-m", "fairseq_cli.train", *arguments])


def read_config(path: Path, overrides: list[str]) -> dict:
    """The config as flag name -> value, with overrides applied and `${VARIABLE}`s of the environment filled in."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must be a mapping of fairseq-train's flags to values")
    config = {str(key).replace("_", "-"): value for key, value in config.items()}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.startswith("-"):
            raise InputError(f"{override!r} is not of the form key=value")
        config[key.replace("_", "-")] = yaml.safe_load(value)
    config = {key: _expand(value, path) for key, value in config.items() if value is not None}
    if "data" not in config:
        raise InputError(f"{path} has no `data`; name the folder of manifests")
    return {"user-dir": str(PACKAGE), **config}


def take_form(config: dict) -> dict:
    """The config with the encoder's form, which compression may have chosen, from the checkpoint that it fine-tunes, if any."""
    start = config.get("finetune-from-model")
    if not start:
        return config
    flags = vars(model_flags(load_checkpoint(start), start))
    form = {name: flags.get(name.replace("-", "_")) for name in _FORM_FLAGS}
    others = {key: value for key, value in config.items() if key not in (*_FORM_FLAGS, "load-pretrained-encoder-from")}
    return {**others, **{name: value for name, value in form.items() if value is not None}}


def _expand(value, path: Path):
    if not isinstance(value, str):
        return value
    expanded = os.path.expandvars(value)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise InputError(f"{path} uses ${{{unset[1]}}}, which the environment does not set; export {unset[1]}=... first")
    return expanded


def to_arguments(config: dict) -> list[str]:
    """fairseq-train's command line. Raises InputError for a flag or a choice that does not exist, with the nearest that does."""
    parser = _parser()
    selected = [item for key in _SELECTORS if key in config for item in (f"--{key}", str(config[key]))]
    _check_choices(parser, config)  # those that decide which flags there are; the rest once the parser knows them
    options.parse_args_and_arch(parser, [str(config["data"]), *selected], parse_known=True)
    known = parser._option_string_actions  # argparse has no public way to ask for its options
    arguments = [str(config["data"])]
    for key, value in config.items():
        if key == "data":
            continue
        if f"--{key}" not in known:
            near = _nearest(key, [option[2:] for option in known if option.startswith("--")])
            raise InputError(f"fairseq-train has no --{key} for this task, model and criterion{near}")
        arguments += _to_argument(known[f"--{key}"], key, value)
    _check_choices(parser, config)
    return arguments


def _to_argument(action: argparse.Action, key: str, value) -> list[str]:
    if action.nargs == 0 and isinstance(value, bool):
        if value:
            return [f"--{key}"]
        return [f"--no-{key}"] if isinstance(action, argparse.BooleanOptionalAction) else []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)] if action.nargs else [f"--{key}", ",".join(map(str, value))]
    return [f"--{key}", str(value)]


def _check_choices(parser: argparse.ArgumentParser, config: dict) -> None:
    for key, value in config.items():
        action = parser._option_string_actions.get(f"--{key}")
        if action is None or not action.choices or isinstance(value, list):
            continue
        names = [str(choice) for choice in action.choices]
        if str(value) in names:
            continue
        hint = _nearest(str(value), names) if len(names) > 8 else f"; allowed are {', '.join(names)}"
        raise InputError(f"{key} {value!r} is not known{hint}")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]}" if near else ""


def validate(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line as fairseq-train will. Raises InputError where that would refuse it."""
    return options.parse_args_and_arch(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    def refuse(message: str):
        raise InputError(f"fairseq-train: {message}")

    parser = options.get_training_parser()
    parser.error = refuse
    return parser


def format_command(arguments: list[str]) -> str:
    """The command, a flag a line, ready to paste into a shell."""
    lines, quoted = [f"fairseq-train {shlex.quote(arguments[0])}"], [shlex.quote(argument) for argument in arguments[1:]]
    for argument in quoted:
        if argument.startswith("--"):
            lines.append(argument)
        else:
            lines[-1] += f" {argument}"
    return " \\\n  ".join(lines)


def check_data(flags: argparse.Namespace) -> None:
    """Raise InputError unless data configuration, manifests and teacher are there, and manifests have the columns fairseq reads."""
    teacher = getattr(flags, "distill_from", None)
    if teacher and not Path(teacher).exists():
        raise InputError(f"distill-from {teacher} does not exist; give a checkpoint, or what residual-st cache-teacher wrote")
    root = Path(flags.data)
    needed = [root / flags.config_yaml]
    subsets = [subset for split in (flags.train_subset, flags.valid_subset) for subset in split.split(",")]
    needed += [root / f"{subset}.tsv" for subset in subsets]
    for path in needed:
        if not path.is_file():
            raise InputError(f"{path} does not exist; examples/must_c/prepare.py writes it")
    for path in needed[1:]:
        with open(path, encoding="utf-8", newline="") as file:
            columns = next(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), [])
        missing = [column for column in _MANIFEST_COLUMNS if column not in columns]
        if missing:
            raise InputError(f"{path} has no column `{missing[0]}`; a manifest has the columns {', '.join(_MANIFEST_COLUMNS)}")
