"""The training data of a fairseq checkpoint, read by its task and its criterion."""

import argparse
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import criterions, tasks, utils
from fairseq.data import Dictionary
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.models import BaseFairseqModel
from fairseq.tasks import TASK_DATACLASS_REGISTRY, FairseqTask
from fairseq.tasks.speech_to_text import SpeechToTextTask
from omegaconf import OmegaConf
from torch import Tensor

from residual_st.compression.moments import Calibration
from residual_st.errors import InputError, refusing
from residual_st.fairseq.manifest import check_manifest
from residual_st.fairseq.standalone import dictionary_size, is_fed_samples, with_task_flags
from residual_st.fairseq.user_dir import register
from residual_st.files import refuse_separator
from residual_st.progress import say

BATCH_FRAMES = 10_000
SAMPLES_PER_FRAME = 160


class TrainingData:
    """Batches of the training data, and the loss that the model was trained with.

    Attributes:
        train_subset: one name, or several separated by commas.

    Args:
        state: the model's checkpoint, which names its task, data configuration, subsets and criterion.
        data: folder with the data configuration and the manifests.
        config_yaml, subset, valid_subset: names of the data configuration, the training subsets and the validation subsets that
            replace the checkpoint's. Subsets are one name, or several separated by commas.
        device: device of the model and the batches.

    Raises:
        InputError: if a file is missing, the dictionary does not fit the model, or fairseq cannot use the task or the criterion.
    """

    def __init__(
        self,
        state: dict,
        data: str | Path,
        config_yaml: str | None = None,
        subset: str | None = None,
        valid_subset: str | None = None,
        device: str | torch.device = "cpu",
    ):
        register()
        self._device = device
        refuse_separator(data)
        flags, task_name = _task_flags(state), _task_name(state)
        arguments = {"config_yaml": config_yaml, "train_subset": subset, "valid_subset": valid_subset}
        settings: dict[str, Any] = {name: value or getattr(flags, name, None) for name, value in arguments.items()}
        if task_name in TASK_DATACLASS_REGISTRY:
            del settings["config_yaml"]
        missing = next((name for name, value in {"task": task_name, **settings}.items() if not value), None)
        if missing or task_name is None:
            raise InputError(f"the checkpoint does not name its training data: it has no {missing}")
        self._said: set[str] = set()
        self._unit = SAMPLES_PER_FRAME if is_fed_samples(state) else 1
        self._data, self.train_subset, self._valid_subset = Path(data), settings["train_subset"], settings["valid_subset"]
        if "config_yaml" in settings:
            _require(self._data, settings["config_yaml"], "config-yaml")
        with refusing(f"the checkpoint's task {task_name} cannot use the data in {data}"):
            self.task = _task(flags, task_name, data, settings.get("config_yaml"))
        _check_dictionary(state, data, len(self.task.target_dictionary))
        criterion = (state.get("cfg") or {}).get("criterion") or flags
        name = criterion.get("_name") if isinstance(criterion, dict) else getattr(criterion, "criterion", None)
        with refusing(f"the checkpoint's criterion {name} cannot be built"):
            self._criterion = criterions.build_criterion(
                OmegaConf.create(criterion) if isinstance(criterion, dict) else criterion, self.task
            )

    def require_manifests(self, *, validation: bool) -> None:
        """Raise InputError if a manifest of the training subsets, or also of the validation subsets, is missing."""
        subsets = [self.train_subset, self._valid_subset] if validation else [self.train_subset]
        for option, names in zip(("subset", "valid-subset"), subsets):
            for name in names.split(","):
                self._require_manifest(name, option)

    def _require_manifest(self, name: str, option: str) -> None:
        """Check a manifest, for tasks that read recordings; other tasks find their files by themselves."""
        if hasattr(self.task, "data_cfg") or self._unit > 1:
            _require(self._data, f"{name}.tsv", option)

    def loss(self, model: BaseFairseqModel, batch: dict) -> Tensor:
        return self._criterion(model, batch)[0]

    def encode(self, model: BaseFairseqModel, batch: dict) -> dict:
        inputs = {name: value for name, value in batch["net_input"].items() if name != "prev_output_tokens"}
        return model.encoder(**inputs) if hasattr(model, "encoder") else model(**inputs)

    def decode(self, model: BaseFairseqModel, batch: dict) -> None:
        with torch.no_grad():
            encoded = self.encode(model, batch)
        model.decoder(batch["net_input"]["prev_output_tokens"], encoder_out=encoded)

    def calibration(self, batches: int, seed: int, more: int = 0) -> Calibration:
        """Random batches of the training subsets, of at most 10,000 frames each, with the model's own loss, for the encoder.

        For a decoder's stack, use `decode` instead of `encode`. `more` is the number of additional batches for correction and
        refinement.
        """
        chosen = list(islice(self.batches(self.train_subset, seed, shuffle=True), batches + more))
        return Calibration(chosen[:batches], self.loss, self.encode, more=chosen[batches:])

    def likelihoods(self, model: BaseFairseqModel) -> dict[str, float]:
        """Losses per target token of the validation subsets, base 2 as in fairseq's logs: `nll_loss`, and `ctc_loss` if any."""
        totals: dict[str, float] = {}
        tokens = 0
        with torch.no_grad():
            for batch in self.batches(self._valid_subset):
                log = self._criterion(model, batch)[2]
                tokens += log["ntokens"]
                for name in [name for name in ("nll_loss", "ctc_loss") if name in log] or ["loss"]:
                    totals[name] = totals.get(name, 0.0) + float(log[name])
        return {name: total / tokens / math.log(2) for name, total in totals.items()}

    def batches(self, subsets: str, seed: int = 1, shuffle: bool = False, augment: bool = True) -> "Batches":
        """The batches of all subsets together, with augmentation for training subsets if `augment`.

        Sentences that are too long for the model are skipped, as in fairseq, and their number is reported.

        Raises:
            InputError: if a manifest is missing or invalid, or all its sentences are too long for the model.
        """
        for name in subsets.split(","):
            self._require_manifest(name, "subset")
            if isinstance(self.task, SpeechToTextTask):
                check_manifest(self._data / f"{name}.tsv", self.task.data_cfg)
        with refusing(f"{subsets} in {self._data} cannot be read"):
            self.task.load_dataset(subsets)
            dataset = self.task.dataset(subsets)
            if not augment and hasattr(self.task, "data_cfg"):
                transforms = self.task.data_cfg.get_feature_transforms("test", is_train=False)
                for part in getattr(dataset, "datasets", [dataset]):
                    part.feature_transforms = CompositeAudioFeatureTransform.from_config_dict(transforms)
            longest, words = _positions(self.task)
            batch_size = BATCH_FRAMES * self._unit
            epochs = self.task.get_batch_iterator(
                dataset,
                max_tokens=max([batch_size, *(size for size in map(_source_size, dataset.sizes) if size <= longest)]),
                max_positions=self.task.max_positions(),
                ignore_invalid_inputs=True,
                seed=seed,
            )
            left_out = len(dataset) - sum(map(len, epochs.frozen_batches))
            iterator = epochs.next_epoch_itr(shuffle=shuffle)
        if left_out:
            limits = f"{longest} frames or {words} words"
            said = f"{left_out} of {len(dataset)} sentences of {subsets} in {self._data} are longer than {limits}"
            if left_out == len(dataset):
                raise InputError(f"{said}, the model's max-source-positions and max-target-positions: none remains")
            if subsets not in self._said:
                self._said.add(subsets)
                say(f"{said} and are skipped")
        return Batches(iterator, f"{subsets} in {self._data}", left_out, self._device)


def read_symbols(state: dict, data: str | Path, config_yaml: str | None = None) -> tuple[list[str], S2TDataConfig]:
    """The words of a model's dictionary, including special ones, and the data configuration that names it.

    Args:
        state: the model's checkpoint, which names the data configuration.
        data: the folder with the data configuration.
        config_yaml: name of the data configuration, replaces the checkpoint's.

    Raises:
        InputError: if a file is missing, or the sizes of dictionary and model differ.
    """
    name = str(config_yaml or getattr(_task_flags(state), "config_yaml", None))
    _require(Path(data), name, "config-yaml")
    path = Path(data) / name
    with refusing(f"{path} is not a data configuration"):
        config = S2TDataConfig(path)
        symbols = Dictionary.load(str(Path(data) / config.vocab_filename)).symbols
    _check_dictionary(state, data, len(symbols))
    return symbols, config


def read_vocabulary(state: dict, data: str | Path, config_yaml: str | None = None) -> tuple[list[str], Path, S2TDataConfig]:
    """`read_symbols`, with the sentencepiece model of the pieces.

    Raises:
        InputError: also if texts are not purely sentencepiece pieces, for example with a tokenizer or language tags.
    """
    symbols, config = read_symbols(state, data, config_yaml)
    for entry in ("prepend_tgt_lang_tag", "prepend_bos_and_append_tgt_lang_tag"):
        if getattr(config, entry):
            raise InputError(
                f"the data configuration has {entry}, which is not supported; texts must consist of sentencepiece pieces only"
            )
    if tokenizer := (config.pre_tokenizer or {}).get("tokenizer"):
        raise InputError(f"the data configuration has the tokenizer {tokenizer}; texts must consist of sentencepiece pieces only")
    pieces = config.bpe_tokenizer or {}
    model = Path(pieces.get("sentencepiece_model", ""))
    if pieces.get("bpe") != "sentencepiece" or not (model := Path(data) / model).is_file():
        raise InputError(f"the data configuration in {data} must name an existing sentencepiece model, but has {pieces}")
    return symbols, model, config


def data_folder(state: dict) -> str | None:
    """The data folder named in the checkpoint."""
    return getattr(_task_flags(state), "data", None)


def train_subset(state: dict) -> str | None:
    """The training subsets named in the checkpoint: one name, or several separated by commas."""
    return getattr(_task_flags(state), "train_subset", None)


def _task_flags(state: dict) -> argparse.Namespace:
    """The flags of a checkpoint's task and the names of its subsets; empty for a checkpoint without them."""
    cfg = state.get("cfg") or {}
    flags = cfg.get("task") or state.get("args") or {}
    subsets = {name: (cfg.get("dataset") or {}).get(name) for name in ("train_subset", "valid_subset")}
    return argparse.Namespace(**{**subsets, **(flags if isinstance(flags, dict) else vars(flags))})


def _task_name(state: dict) -> str | None:
    flags = _task_flags(state)
    return getattr(flags, "task", None) or getattr(flags, "_name", None)


def _task(flags: argparse.Namespace, name: str, data: str | Path, config_yaml: str | None) -> FairseqTask:
    if name in TASK_DATACLASS_REGISTRY:
        config = {**vars(flags), "_name": name, "data": str(data)}
        return tasks.setup_task(OmegaConf.create(config), from_checkpoint=True)
    flags = with_task_flags(flags)
    flags.data, flags.config_yaml = str(data), config_yaml
    flags.train_subset = "train"  # the task accepts no other name, and does not read the manifest yet
    return tasks.setup_task(flags)


def _positions(task: FairseqTask) -> tuple[float, float]:
    """The maximum lengths of source and target of a task."""
    positions = task.max_positions()
    source, target = positions if isinstance(positions, tuple) else (positions, None)
    return source or math.inf, target or math.inf


def _source_size(size) -> int:
    return int(size if np.ndim(size) == 0 else size[0])


def _check_dictionary(state: dict, data: str | Path, words: int) -> None:
    rows = dictionary_size(state)
    if words != rows:
        raise InputError(
            f"the dictionary in {data} has {words} words, but the model's has {rows}; give the data that it was trained on"
        )


def _require(data: Path, name: str, option: str) -> None:
    if not (data / name).is_file():
        raise InputError(f"{data / name} does not exist; give the data that the model was trained on, or --{option} NAME")


class Batches:
    """An iterable of batches. Raises InputError in iteration if audio or features are missing or damaged.

    Attributes:
        left_out: number of sentences that were skipped because they are too long.
    """

    def __init__(self, iterator, what: str, left_out: int = 0, device: str | torch.device = "cpu"):
        self._iterator, self._what, self.left_out, self._device = iterator, what, left_out, device

    def __len__(self) -> int:
        return len(self._iterator)

    def __iter__(self) -> Iterator[dict]:
        iterator = iter(self._iterator)
        while True:
            with refusing(f"audio or features of {self._what} cannot be read"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield utils.apply_to_sample(lambda value: value.to(self._device), batch)
