"""Hugging Face folders whose encoder shares its layers: written, read as ordinary models, and expanded.

Such a folder is an ordinary one with two differences: `config.json` holds the form under `residual_st`, and `model.safetensors`
holds each shared matrix once.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file

from residual_st.checkpoints import first_difference
from residual_st.errors import InputError
from residual_st.files import refuse_existing_folder, whole_folder
from residual_st.sharing import SharedForm, form_of, share_layers, unshare_layers
from residual_st.sharing.form import flag_names
from residual_st.stacks import stack_of

ARCHITECTURES = ("WhisperForConditionalGeneration", "Speech2TextForConditionalGeneration")
_FORM = "residual_st"  # in config.json
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.index.json", "*.onnx")


def load(folder: str | Path) -> transformers.PreTrainedModel:
    """The model in a folder, dense or with shared layers, of its ordinary class and in evaluation mode.

    Raises:
        InputError: if the folder holds no model of `ARCHITECTURES`, or weights that its config does not describe.
    """
    folder = Path(folder)
    config = read_config(folder)
    form = config.pop(_FORM, None)
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, config["architectures"][0])(transformers.AutoConfig.for_model(**config))
    if form is not None:
        stack = stack_of(model)
        try:
            shared_form = form_of(stack.layers, **form)
        except TypeError as error:
            raise InputError(f"{folder / _CONFIG} describes no form of shared layers: {error}") from error
        stack.owner.shared_weights = share_layers(stack.layers, shared_form)
    weights = _read_weights(folder)
    expected = model.state_dict()
    tied = {name for name in expected if name not in dict(model.named_parameters()) and name not in dict(model.named_buffers())}
    difference = first_difference(weights, {name: value for name, value in expected.items() if name not in tied or name in weights})
    if difference:
        raise InputError(f"{folder / _WEIGHTS} does not hold the model that {_CONFIG} describes: {difference}")
    model.load_state_dict(weights, strict=False)  # what is missing is tied to what is there
    if (folder / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model.eval()


def read_config(folder: Path) -> dict:
    """`config.json`. Raises InputError unless it is there and of a model of `ARCHITECTURES`."""
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = (config.get("architectures") or [None])[0]
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} cannot be read; give the folder of a Hugging Face model") from error
    if architecture not in ARCHITECTURES:
        raise InputError(f"{folder} is of {architecture}; known are {' and '.join(ARCHITECTURES)}")
    return config


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / _WEIGHTS
    if not path.exists():
        raise InputError(f"{path} does not exist; weights of other formats are not read, model.save_pretrained writes this one")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read; it is damaged or of another kind: {error}") from error


def save(model: transformers.PreTrainedModel, folder: str | Path, source: Path, form: SharedForm | None) -> None:
    """Write a model's folder.

    Args:
        source: the folder that the model came from, whose tokenizer and other files are copied.
        form: of the encoder; None for a dense model.
    """
    with whole_folder(Path(folder)) as partial:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_OTHER_WEIGHTS, ".*"), dirs_exist_ok=True)
        model.save_pretrained(partial, max_shard_size="100GB")
        config = json.loads((partial / _CONFIG).read_text(encoding="utf-8"))
        config.pop(_FORM, None)
        if form is not None:
            config[_FORM] = to_config(form)
        (partial / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def refuse_existing(folder: str | Path, force: bool) -> None:
    """Raise InputError, before any work, where a folder would be overwritten without `force`, or is of something else."""
    refuse_existing_folder(folder, force, _CONFIG)


def to_config(form: SharedForm) -> dict:
    """What `config.json` holds of a form: arguments of `form_of`."""
    group_size, pattern, rank, diagonal = (form.to_flags("")[name] for name in flag_names(""))
    return {"group_size": group_size, "pattern": pattern, "rank": rank, "diagonal": diagonal}


def expand(source: str | Path, folder: str | Path) -> None:
    """Write the ordinary folder of one with shared layers: every weight composed. Raises InputError for a dense one."""
    source = Path(source)
    if _FORM not in read_config(source):
        raise InputError(f"{source} is a dense model, which there is nothing to expand in")
    model = load(source)
    stack = stack_of(model)
    unshare_layers(stack.layers)
    del stack.owner.shared_weights
    save(model, folder, source, None)
