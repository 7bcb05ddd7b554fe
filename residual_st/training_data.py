"""The manifests that a fairseq checkpoint was trained on, as its task and its criterion see them."""

import argparse
import math
from pathlib import Path

import torch
from fairseq import criterions, tasks
from fairseq.data.audio.feature_transforms import CompositeAudioFeatureTransform
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel
from omegaconf import OmegaConf
from torch import Tensor

from residual_st.errors import InputError

BATCH_FRAMES = 10_000


class TrainingData:
    """Real batches, and the loss that the model was trained with.

    Args:
        state: the model's checkpoint, which names its task, its data configuration, its subsets and its criterion.
        data: folder with that configuration and the manifests.

    Raises:
        InputError: if a file is missing, or the dictionary is not the model's.
    """

    def __init__(self, state: dict, data: str | Path):
        cfg = state.get("cfg") or {}
        flags = cfg.get("task") or state.get("args") or {}
        flags = argparse.Namespace(**(flags if isinstance(flags, dict) else vars(flags)))
        if not all(hasattr(flags, name) for name in ("task", "config_yaml", "train_subset", "valid_subset")):
            raise InputError("the checkpoint does not say what it was trained on: its task and its subsets")
        flags.data = str(data)
        for name in (flags.config_yaml, f"{_first(flags.train_subset)}.tsv", f"{_first(flags.valid_subset)}.tsv"):
            if not (Path(data) / name).is_file():
                raise InputError(f"{Path(data) / name} does not exist; give the data that the model was trained on")
        self.task = tasks.setup_task(flags)
        self._flags = flags
        theirs = len(self.task.target_dictionary)
        rows = state["model"]["decoder.embed_tokens.weight"].shape[0]
        if theirs != rows:
            raise InputError(
                f"{data} has a dictionary of {theirs} words, the model one of {rows}; give the data that it was trained on"
            )
        criterion = cfg.get("criterion") or flags
        self._criterion = criterions.build_criterion(
            OmegaConf.create(criterion) if isinstance(criterion, dict) else criterion, self.task
        )

    @property
    def train_subset(self) -> str:
        return self._flags.train_subset

    def loss(self, model: S2TTransformerModel, batch: dict) -> Tensor:
        return self._criterion(model, batch)[0]

    def encode(self, model: S2TTransformerModel, batch: dict) -> None:
        model.encoder(batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"])

    def likelihoods(self, model: S2TTransformerModel) -> dict[str, float]:
        """Per target token of the validation subset, base 2 as fairseq logs them: `nll_loss`, and `ctc_loss` if there is one."""
        totals, tokens = {}, 0
        with torch.no_grad():
            for batch in self.batches(self._flags.valid_subset):
                log = self._criterion(model, batch)[2]
                tokens += log["ntokens"]
                for name in ("nll_loss", "ctc_loss"):
                    if name in log:
                        totals[name] = totals.get(name, 0.0) + float(log[name])
        return {name: total / tokens / math.log(2) for name, total in totals.items()}

    def batches(self, subsets: str, seed: int = 1, shuffle: bool = False, augment: bool = True):
        """An iterator over the batches of a subset, the first of several; `augment` as in training, where it is a training set."""
        subset = _first(subsets)
        self.task.load_dataset(subset)
        if not augment:
            dataset = self.task.dataset(subset)
            transforms = dataset.cfg.get_feature_transforms(subset, is_train=False)
            dataset.feature_transforms = CompositeAudioFeatureTransform.from_config_dict(transforms)
        iterator = self.task.get_batch_iterator(
            self.task.dataset(subset),
            max_tokens=BATCH_FRAMES,
            max_positions=self.task.max_positions(),
            ignore_invalid_inputs=True,
            seed=seed,
        )
        return iterator.next_epoch_itr(shuffle=shuffle)


def _first(subsets: str) -> str:
    return subsets.split(",")[0]
