"""Hugging Face folders whose encoder or decoder shares its layers: written, read as ordinary models, and expanded.

transformers itself reads and writes them. Such a folder is an ordinary one with two differences: `config.json` holds the form under
`residual_st`, and the weights hold each shared matrix once, with marks in place of the composed ones
(residual_st/huggingface/stack.py), by which an ordinary `from_pretrained` refuses them.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers

from residual_st.errors import InputError, reason, refusing
from residual_st.files import refuse_existing_folder, whole_folder
from residual_st.huggingface.kinds import PARTS, models
from residual_st.huggingface.quiet import quiet
from residual_st.huggingface.stack import FORM
from residual_st.sharing import SharedForm, form_of, matrices, share_layers, unshare_layers
from residual_st.stacks import stack_of

_CONFIG, _EXTRACTOR = "config.json", "preprocessor_config.json"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.index.json", "*.onnx")


def load(folder: str | Path) -> transformers.PreTrainedModel:
    """The model in a folder, dense or with shared layers, of its ordinary class, in the folder's precision and evaluation mode.

    Raises:
        InputError: if the folder holds no model of a kind that is known, or weights that its config does not describe.
    """
    folder = Path(folder)
    config = read_config(folder)
    model_class = getattr(transformers, config["architectures"][0])
    forms = _forms_of(config, folder)
    built = _with_shared_layers(model_class, forms) if forms else model_class
    with quiet(), torch.random.fork_rng(devices=[]), refusing(f"the model in {folder} cannot be read"):
        model, found = built.from_pretrained(
            folder,
            torch_dtype="auto",
            weights_only=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    for fault, names in found.items():
        if names:
            first = min(name if isinstance(name, str) else name[0] for name in names)
            raise InputError(
                f"{folder} does not hold the model that its {_CONFIG} describes: {fault.replace('_', ' ')}, first {first}"
            )
    if forms:
        model.__class__ = model_class
        setattr(model.config, FORM, {})  # to be described anew, part by part
    for part, form in forms.items():
        stack = stack_of(model, part)
        names = tuple(name for name, _ in matrices(stack.layers[0]))
        stack.on_sharing(stack.owner, SharedForm.make(len(stack.layers), names, **form))
    return model


def _forms_of(config: dict, folder: Path) -> dict[str, dict]:
    """Part -> arguments of `form_of`, of those parts whose layers share. Earlier folders describe the encoder alone."""
    described = config.get(FORM, {})
    forms = {"encoder": described} if "group_size" in described else described
    for part in sorted(set(forms) - set(PARTS)):
        raise InputError(f"{folder / _CONFIG} says that {part} shares its layers; it must be one of {', '.join(PARTS)}")
    return forms


def _with_shared_layers(model_class: type, forms: dict[str, dict]) -> type:
    """The class, built with shared layers, for `from_pretrained` to read weights into."""

    class Shared(model_class):
        _keys_to_ignore_on_load_unexpected = (r"layers\.\d+\..*\.weight$",)  # the marks

        def __init__(self, config, *args, **kwargs):
            super().__init__(config, *args, **kwargs)
            for part, form in forms.items():
                stack = stack_of(self, part)
                stack.owner.shared_weights = share_layers(stack.layers, form_of(stack.layers, **form))

    return Shared


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
    if FORM not in read_config(source):
        raise InputError(f"{source} is already dense")
    model = load(source)
    dtype = model.dtype
    model.float()  # weights are composed before they are rounded
    for part in getattr(model.config, FORM):
        stack = stack_of(model, part)
        unshare_layers(stack.layers)
        del stack.owner.shared_weights
    delattr(model.config, FORM)
    save(model.to(dtype), folder, source)
