"""The input of a model, computed like fairseq's data set according to the data configuration."""

from dataclasses import dataclass

import numpy as np
import torch
from fairseq.data.audio.data_cfg import S2TDataConfig
from fairseq.data.audio.feature_transforms import AudioFeatureTransform, CompositeAudioFeatureTransform
from fairseq.data.audio.feature_transforms.utterance_cmvn import UtteranceCMVN
from torch import Tensor

from residual_st.audio.filterbank import N_MEL_BINS, filterbank
from residual_st.audio.reading import SAMPLE_RATE
from residual_st.errors import InputError, refusing

_UNSEEN = "test"  # a split without its own entries uses those of `_eval` or `*`


@dataclass(frozen=True)
class ModelInput:
    """Log-mel filterbanks of an utterance as in the recipe, followed by fairseq's transforms for unseen splits."""

    sample_rate: int = SAMPLE_RATE
    bins: int = N_MEL_BINS
    transforms: tuple[AudioFeatureTransform, ...] = (UtteranceCMVN(),)

    def features(self, samples: np.ndarray) -> Tensor:
        """Mono samples (n,) in [-1, 1] at the sample rate -> float32 (frames, bins); no frames for less than 25 ms."""
        frames = filterbank(samples, self.sample_rate, self.bins)
        return torch.from_numpy(CompositeAudioFeatureTransform(self.transforms)(frames) if len(frames) else frames).float()


def model_input(config: S2TDataConfig) -> ModelInput:
    """The model input of a data configuration. Raises InputError, with the entry's name, for unsupported entries."""
    if config.use_audio_input:
        raise InputError(
            "the data configuration has use_audio_input, which is not supported; the model's input must be filterbanks"
        )
    if config.input_channels != 1:
        raise InputError(f"the data configuration has input_channels={config.input_channels}; for filterbanks it must be 1")
    for kind, transforms in (
        ("waveform_transforms", config.get_waveform_transforms(_UNSEEN, False)),
        ("dataset_transforms", config.get_dataset_transforms(_UNSEEN, False)),
    ):
        if transforms[kind]:
            names = ", ".join(transforms[kind])
            raise InputError(
                f"the data configuration has {kind} {names} for unseen data, but these are for training only; remove them"
            )
    with refusing("the transforms of the data configuration cannot be built"):
        applied = CompositeAudioFeatureTransform.from_config_dict(config.get_feature_transforms(_UNSEEN, False))
    rate, bins = config.sample_rate, config.input_feat_per_channel
    with refusing(
        f"the data configuration has sample_rate={rate} and input_feat_per_channel={bins}: no filterbank can be computed with these"
    ):
        if not isinstance(rate, int) or not isinstance(bins, int):
            raise ValueError("they must be whole numbers")
        filterbank(np.zeros(1, np.float32), rate, bins)
    return ModelInput(rate, bins, tuple(applied.transforms if applied else ()))
