"""Hugging Face folders whose encoder or decoder shares its layers: written, read as ordinary models, and expanded.

transformers itself reads and writes them. Such a folder is an ordinary one with two differences: `config.json` holds the forms of
the shared parts under `quantization_config`, and the weights hold each shared matrix once, with marks in place of the composed ones
(residual_st/huggingface/description.py).
"""

import json
import shutil
from pathlib import Path

import torch
import transformers

from residual_st.errors import InputError, reason, refusing
from residual_st.files import refuse_existing_folder, whole_folder
from residual_st.huggingface.description import DESCRIPTION, forms_of, is_described, marks, translate_old
from residual_st.huggingface.kinds import kind_of, models
from residual_st.huggingface.quiet import quiet
from residual_st.sharing import unshare_layers
from residual_st.stacks import stack_of

_CONFIG, _EXTRACTOR = "config.json", "preprocessor_config.json"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.index.json", "*.onnx")


def load(folder: str | Path) -> transformers.PreTrainedModel:
    """The model in a folder, dense or with shared layers, of its ordinary class, in the folder's precision and evaluation mode.

    `from_pretrained` reads it too. Here weights that are missing, unknown or of another shape are errors, whatever they are, and
    old folders are read, whose form `config.json` holds in another place.

    Raises:
        InputError: if the folder holds no model of a kind that is known, or weights that its config does not describe.
    """
    folder = Path(folder)
    model_class = getattr(transformers, read_config(folder)["architectures"][0])
    with quiet(), torch.random.fork_rng(devices=[]), refusing(f"the model in {folder} cannot be read"):
        config = model_class.config_class.from_pretrained(folder, local_files_only=True)
        translate_old(config)
        model, found = model_class.from_pretrained(
            folder,
            config=config,
            torch_dtype="auto",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            low_cpu_mem_usage=False,  # with it transformers 4.50 takes some of what is missing for tied weights
        )
    found["unexpected_keys"] = set(found["unexpected_keys"]).difference(marks(model))
    may_lack = kind_of(model).may_lack
    found["missing_keys"] = [name for name in found["missing_keys"] if name.rpartition(".")[2] not in may_lack]
    for fault, names in found.items():
        if names:
            first = min(name if isinstance(name, str) else name[0] for name in names)
            raise InputError(
                f"{folder} does not hold the model that its {_CONFIG} describes: {fault.replace('_', ' ')}, first {first}"
            )
    return model


def read_config(folder: Path) -> dict:
    """`config.json`. Raises InputError unless it is there and of a model of a kind that is known."""
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = (config.get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read; give the folder of a Hugging Face model: {reason(error)}") from error
    if architecture not in (known := models()):
        raise InputError(f"{folder} is of {architecture}; it must be one of {', '.join(known)}")
    return config


def feature_extractor(folder: str | Path) -> transformers.FeatureExtractionMixin:
    """What turns audio into the input of a folder's model. Raises InputError if the folder has none."""
    with quiet():
        try:
            return transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{folder} has no {_EXTRACTOR} that transformers can read; copy that of the model that this one was trained from"
            ) from error


def save(model: transformers.PreTrainedModel, folder: str | Path, source: Path) -> None:
    """Write a model's folder: what `save_pretrained` writes, with the tokenizer and other files of the folder that it came from."""
    with whole_folder(Path(folder)) as partial, quiet():
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_OTHER_WEIGHTS, ".*"), dirs_exist_ok=True)
        model.save_pretrained(partial)


def refuse_existing(folder: str | Path, force: bool) -> None:
    """Raise InputError, before any work, where a folder would be overwritten without `force`, or is of something else."""
    refuse_existing_folder(folder, force, _CONFIG)


@torch.no_grad()
def expand(source: str | Path, folder: str | Path) -> None:
    """Write the ordinary folder of one with shared layers: every weight composed. Raises InputError for a dense one."""
    source = Path(source)
    if not is_described(read_config(source)):
        raise InputError(f"{source} is already dense")
    model = load(source)
    dtype = model.dtype
    model.float()  # weights are composed before they are rounded
    for part in forms_of(model.config):
        stack = stack_of(model, part)
        unshare_layers(stack.layers)
        del stack.owner.shared_weights
    delattr(model.config, DESCRIPTION)
    save(model.to(dtype), folder, source)
