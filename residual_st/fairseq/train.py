"""Conversion of a YAML config to a fairseq-train command, with all checks that fairseq-train makes in its first minutes."""

import argparse
import difflib
import os
import re
import shlex
from pathlib import Path

import torch
import yaml
from fairseq import criterions, options, tasks, utils
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.registry import REGISTRIES

from residual_st.errors import InputError, refusing
from residual_st.fairseq.build import PRETRAINED_FLAGS
from residual_st.fairseq.checkpoints import load_checkpoint, model_flags
from residual_st.fairseq.chunks import CHUNK_FLAGS
from residual_st.fairseq.distillation.teacher import open_teacher
from residual_st.fairseq.flags import OUR_FLAGS, PARTS, defaults_of, flag_difference, is_dense, shaping_flags
from residual_st.fairseq.manifest import check_manifest
from residual_st.fairseq.other_user_dirs import user_dir_with
from residual_st.fairseq.pretrained import check_pretrained, part_of
from residual_st.fairseq.user_dir import PACKAGE, register
from residual_st.files import refuse_separator
from residual_st.progress import say

# flags that determine which other flags exist
_SELECTORS = ["user-dir", "task", "arch", *(name.replace("_", "-") for name in REGISTRIES)]
_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}  # YAML's booleans, for flags without a value


def read_config(path: Path, overrides: list[str]) -> tuple[dict, list[str]]:
    """The config as flag name -> value, with overrides applied and `${VARIABLE}` replaced from the environment.

    Values are strings or lists of strings: numbers are left to fairseq-train's own parser.

    Returns:
        The config, and the names of the flags that were overridden.
    """
    try:
        config = yaml.load(path.read_text(encoding="utf-8-sig"), yaml.BaseLoader)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must contain a mapping from fairseq-train's flags to values")
    config = {str(key).replace("_", "-"): value for key, value in config.items()}
    overridden = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key.startswith("-"):
            raise InputError(f"{override!r} must have the form key=value")
        overridden.append(key.replace("_", "-"))
        config[overridden[-1]] = value
    config = {key: _expand(value, path) for key, value in config.items() if value not in ("", "null", "~")}
    if "data" not in config:
        raise InputError(f"{path} has no `data`; set it to the folder of the manifests")
    others = config.pop("user-dir", str(PACKAGE))
    return {"user-dir": str(user_dir_with([others] if isinstance(others, str) else others)), **config}, overridden


def import_user_dir(config: dict) -> None:
    """Import the config's user dir, as fairseq-train does before looking up an architecture."""
    with refusing(f"user-dir {config['user-dir']} cannot be imported"):
        utils.import_user_module(argparse.Namespace(user_dir=config["user-dir"]))
    register()


def with_form(config: dict, overridden: list[str]) -> tuple[dict, argparse.Namespace | None]:
    """The config with all model-defining flags from the checkpoint to be fine-tuned, and that checkpoint's flags.

    A checkpoint can only be fine-tuned in its own form, which compression may have chosen layer by layer. Without
    `finetune-from-model` the config is unchanged.

    Raises:
        InputError: if an override contradicts that form, or the config describes a residual model and the checkpoint is dense.
    """
    start = config.get("finetune-from-model")
    if not start:
        return config, None
    register()
    flags = model_flags(load_checkpoint(start), start)
    if _asks_to_share(config) and is_dense(flags):
        raise InputError(
            f"{start} is a dense checkpoint ({flags.arch}), but the config has arch={config['arch']}: compress it first with "
            f"residual-st compress, or give arch={flags.arch.replace('s2t_residual_', 's2t_')} to train it dense"
        )
    names = shaping_flags(flags.arch)
    if not names:
        raise InputError(
            f"{start} has --arch {flags.arch}, which is not registered; set user-dir to the user dir that registers it"
        )
    changeable = [name for name in CHUNK_FLAGS if name.replace("_", "-") not in config]
    form = {
        name.replace("_", "-"): value for name in ("arch", *names, *changeable) if (value := getattr(flags, name, None)) is not None
    }
    for key in overridden:
        if key in form and key in config and str(config[key]).lower() != str(form[key]).lower():
            raise InputError(f"{key}={config[key]} does not fit {start}, which has {key}={form[key]}; remove it")
    replaced = {"arch", "load-pretrained-encoder-from", "load-pretrained-decoder-from"}
    replaced |= {name.replace("_", "-") for name in (*names, *OUR_FLAGS, *shaping_flags(config.get("arch", "")))}
    return {**{key: value for key, value in config.items() if key not in replaced}, **form}, flags


def _asks_to_share(config: dict) -> bool:
    defaults = defaults_of(ARCH_MODEL_REGISTRY.get(config.get("arch")))
    return any(str(config.get(f"{part}-group-size", defaults[part].group_size)) != "1" for part in PARTS)


def _expand(value: str | list, path: Path) -> str | list:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_expand(item, path) for item in value]
    if not isinstance(value, str):
        raise InputError(f"every flag in {path} must have a value or a list of values")
    expanded = os.path.expandvars(value)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise InputError(f"{path} uses ${{{unset[1]}}}, but this environment variable is not set; export {unset[1]}=... first")
    return expanded


def to_arguments(config: dict) -> list[str]:
    """fairseq-train's command line. Raises InputError for an unknown flag or choice, with the nearest known one."""
    parser = _parser()
    selected = [item for key in _SELECTORS if key in config for item in (f"--{key}", str(config[key]))]
    _check_choices(parser, config)  # first those that determine which flags exist; the others once the parser knows them
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
    if action.nargs == 0:
        word = str(value).lower()
        if word not in _WORDS:
            raise InputError(f"{key}={value}: this flag takes no value; it must be true or false")
        if _WORDS[word]:
            return [f"--{key}"]
        return [f"--no-{key}"] if isinstance(action, argparse.BooleanOptionalAction) else []
    if isinstance(value, str) and action.type not in (None, str) and re.fullmatch(r"\[.*\]", value):
        value = [item.strip() for item in value[1:-1].split(",")]  # an override such as lr=[1e-3, 2e-3]
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)] if action.nargs else [f"--{key}", ",".join(map(str, value))]
    return [f"--{key}={value}"] if str(value).startswith("-") else [f"--{key}", str(value)]


def _check_choices(parser: argparse.ArgumentParser, config: dict) -> None:
    for key, value in config.items():
        action = parser._option_string_actions.get(f"--{key}")
        if action is None or not action.choices or isinstance(value, list):
            continue
        names = [str(choice) for choice in action.choices]
        if str(value) in names:
            continue
        hint = _nearest(str(value), names) if len(names) > 8 else f"; it must be one of {', '.join(names)}"
        raise InputError(f"{key} {value!r} is not known{hint}")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; the nearest is {near[0]}" if near else ""


def validate(arguments: list[str], form: argparse.Namespace | None = None) -> argparse.Namespace:
    """Parse the command line like fairseq-train.

    Args:
        form: flags of the checkpoint to be fine-tuned, if any.

    Raises:
        InputError: if fairseq-train would refuse the command, or a flag of that checkpoint cannot be given to fairseq-train.
    """
    with refusing("fairseq-train"):
        flags = options.parse_args_and_arch(_parser(), arguments)
    if form:
        difference = flag_difference(form, flags, shaping_flags(flags.arch))
        if difference:
            raise InputError(f"the checkpoint to fine-tune cannot be described by flags of fairseq-train: {difference}")
    return flags


def _parser() -> argparse.ArgumentParser:
    def refuse(message: str):
        raise InputError(f"fairseq-train: {message}")

    register()
    parser = options.get_training_parser()
    parser.error = refuse
    return parser


def format_command(program: list[str], arguments: list[str]) -> str:
    """The command with one flag per line, ready to paste into a shell."""
    lines, quoted = [shlex.join([*program, arguments[0]])], [shlex.quote(argument) for argument in arguments[1:]]
    for argument in quoted:
        if argument.startswith("--"):
            lines.append(argument)
        else:
            lines[-1] += f" {argument}"
    return " \\\n  ".join(lines)


def is_finished(flags: argparse.Namespace) -> bool:
    """Whether the run already has `--max-update` updates. fairseq-train would make one more and overwrite the last checkpoint."""
    last = Path(flags.save_dir) / flags.restore_file
    starts_anew = any(getattr(flags, f"reset_{part}", False) for part in ("optimizer", "lr_scheduler", "dataloader", "meters"))
    if not flags.max_update or starts_anew or not last.is_file():
        return False
    history = load_checkpoint(last).get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0) >= flags.max_update


def check_run(flags: argparse.Namespace) -> None:
    """Raise InputError for errors that fairseq-train would find only after its start.

    Checks the data configuration, manifests and some of their audio, the vocabulary, the model (built on "meta"), the criterion,
    and the checkpoints of pretrained weights and of the teacher.
    """
    pretrained = {name: path for name in PRETRAINED_FLAGS if (path := getattr(flags, name, None))}
    teacher = getattr(flags, "distill_from", None)
    for name, path in {**pretrained, **({"distill_from": teacher} if teacher else {})}.items():
        if not Path(path).exists():
            raise InputError(f"{name.replace('_', '-')} {path} does not exist; give a checkpoint of fairseq-train")
    refuse_separator(flags.data)
    root = Path(flags.data)
    needed = [root / flags.config_yaml]
    subsets = [subset for split in (flags.train_subset, flags.valid_subset) for subset in split.split(",")]
    needed += [root / f"{subset}.tsv" for subset in subsets]
    for path in needed:
        if not path.is_file():
            raise InputError(f"{path} does not exist; create it with examples/must_c/prepare.py")
    with refusing(f"the data in {root} cannot be used"):
        task = tasks.setup_task(flags)
        task.build_bpe(flags)
    frames = {subset: check_manifest(path, task.data_cfg) for subset, path in zip(subsets, needed[1:])}
    completed = argparse.Namespace(**{**vars(flags), **dict.fromkeys(pretrained)})  # the task adds its flags to it
    with refusing(f"the model {flags.arch} cannot be built"), torch.device("meta"):
        model = task.build_model(completed)
    for subset, lengths in frames.items():
        _check_lengths(subset, lengths, flags, utils.resolve_max_positions(task.max_positions(), model.max_positions()))
    vars(completed).update(pretrained)
    for name in pretrained if hasattr(model, "sharing_defaults") else ():  # other models load by themselves
        check_pretrained(getattr(model, part_of(name)), completed, name)
    with refusing(f"the criterion {flags.criterion} cannot be used"):
        criterions.build_criterion(flags, task)
    if teacher:
        open_teacher(teacher, len(task.target_dictionary))


def _check_lengths(subset: str, frames: list[int], flags: argparse.Namespace, positions: tuple[int, int]) -> None:
    """Report how many utterances are too long for training. Raises InputError if no others remain or fairseq would stop."""
    training = subset in flags.train_subset.split(",")
    batch = flags.max_tokens if training else flags.max_tokens_valid or flags.max_tokens
    longest, _ = utils.resolve_max_positions(positions, batch)
    too_long = sum(each > longest for each in frames)
    said = f"{too_long} of {len(frames)} utterances of {subset} are longer than {longest} frames (max-source-positions, max-tokens)"
    if too_long == len(frames):
        raise InputError(f"{said}: none remains")
    if too_long and not training and not flags.skip_invalid_size_inputs_valid_test:
        raise InputError(
            f"{said}, and fairseq-train would stop at them; set skip-invalid-size-inputs-valid-test: true to skip them"
        )
    if too_long:
        say(f"{said} and are skipped")
