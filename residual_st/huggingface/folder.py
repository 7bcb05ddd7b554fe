"""Hugging Face folders with a shared encoder or decoder: reading, writing, expanding.

transformers itself reads and writes them. Such a folder differs from an ordinary one in two ways: `config.json` contains the forms
of the shared parts under `quantization_config`, and the weight file contains each shared matrix once, with marks in place of
composed weights (residual_st/huggingface/description.py).
"""

import json
import shutil
from pathlib import Path
from typing import TypeVar

import torch
import transformers
from torch import nn

from residual_st.errors import InputError, reason, refusing
from residual_st.files import refuse_existing_folder, whole_folder
from residual_st.huggingface.description import DESCRIPTION, forms_of, marks, translate_old
from residual_st.huggingface.kinds import kind_of, models
from residual_st.huggingface.quiet import quiet
from residual_st.stacks import stack_of

_CONFIG, _EXTRACTOR = "config.json", "preprocessor_config.json"
_Extractor = TypeVar("_Extractor", bound=transformers.SequenceFeatureExtractor)
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.index.json", "*.onnx")


def load(folder: str | Path) -> transformers.PreTrainedModel:
    """Load the model in a folder, dense or with shared layers, with its ordinary class, in the folder's precision and evaluation
    mode.

    `from_pretrained` reads such a folder too. In addition, this function raises errors for weights that are missing, unknown or of
    a different shape, and reads the format of old folders.

    Raises:
        InputError: if the folder contains no model of a known kind, or weights that do not match its config.
    """
    folder = Path(folder)
    model_class = getattr(transformers, read_config(folder)["architectures"][0])
    with quiet(), torch.random.fork_rng(devices=[]), refusing(f"the model in {folder} cannot be read"):
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        translate_old(config)
        model, faults = model_class.from_pretrained(
            folder,
            config=config,
            torch_dtype="auto",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            low_cpu_mem_usage=False,  # with True, transformers 4.50 takes some missing weights for tied ones
        )
    faults["unexpected_keys"] = set(faults["unexpected_keys"]).difference(marks(model))
    may_lack = kind_of(model).may_lack
    faults["missing_keys"] = [name for name in faults["missing_keys"] if name.rpartition(".")[2] not in may_lack]
    for fault, names in faults.items():
        if names:
            first = min(name if isinstance(name, str) else name[0] for name in names)
            raise InputError(
                f"{folder} does not contain the model that its {_CONFIG} describes: {fault.replace('_', ' ')}, first {first}"
            )
    return model


def read_config(folder: Path) -> dict:
    """The contents of `config.json`. Raises InputError if it is missing or describes a model of an unknown kind."""
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = (config.get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read; give the folder of a Hugging Face model: {reason(error)}") from error
    if architecture not in (known := models()):
        raise InputError(f"{folder} contains {architecture}, which is not supported; it must be one of {', '.join(known)}")
    return config


def feature_extractor(folder: str | Path, kind: type[_Extractor]) -> _Extractor:
    """The feature extractor of a folder. Raises InputError if it has none of this class."""
    copy_it = "copy it from the model that this one was trained from"
    with quiet():
        try:
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} has no {_EXTRACTOR} that transformers can read; {copy_it}") from error
    if not isinstance(extractor, kind):
        raise InputError(f"{folder} has the {_EXTRACTOR} of a {type(extractor).__name__}, not of a {kind.__name__}; {copy_it}")
    return extractor


def save(model: transformers.PreTrainedModel, folder: str | Path, source: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model's folder with `save_pretrained`, and copy the tokenizer and other files of its source folder.

    Args:
        dtype: the precision to convert the model to before; None for the model's own.
    """
    if dtype is not None:
        nn.Module.to(model, dtype)  # transformers' own has no type
    with whole_folder(Path(folder)) as partial, quiet():
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_OTHER_WEIGHTS, ".*"), dirs_exist_ok=True)
        model.save_pretrained(partial)


def refuse_existing(folder: str | Path, force: bool) -> None:
    """Raise InputError, before any work, if a folder exists and `force` is not given or it is not a model folder."""
    refuse_existing_folder(folder, force, _CONFIG)


@torch.no_grad()
def expand(source: str | Path, folder: str | Path) -> None:
    """Write a folder with shared layers as an ordinary dense folder. Raises InputError for a dense folder."""
    source = Path(source)
    model = load(source)
    if not forms_of(model.config):
        raise InputError(f"{source} is already dense")
    dtype = model.dtype
    model.float()  # compose weights before rounding them
    for part in forms_of(model.config):
        stack_of(model, part).unshare()
    delattr(model.config, DESCRIPTION)
    save(model, folder, source, dtype)
