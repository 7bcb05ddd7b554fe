"""The input described by a data configuration, as the first part of a graph."""

from functools import partial

import numpy as np
from fairseq.data.audio.feature_transforms import AudioFeatureTransform
from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN
from fairseq.data.audio.feature_transforms.utterance_cmvn import UtteranceCMVN

from residual_st.errors import InputError
from residual_st.export.features import Filterbank, Transform, normalised_by_statistics, normalised_by_utterance
from residual_st.fairseq.model_input import ModelInput


def filterbank_of(source: ModelInput) -> Filterbank:
    """The filterbank of a model input. Raises InputError for an unsupported transform."""
    return Filterbank(source.sample_rate, source.bins, tuple(_in_graph(transform, source.bins) for transform in source.transforms))


def _in_graph(transform: AudioFeatureTransform, bins: int) -> Transform:
    if type(transform) is UtteranceCMVN:
        return partial(normalised_by_utterance, means=transform.norm_means, variances=transform.norm_vars)
    if type(transform) is GlobalCMVN:
        mean, deviation = (np.asarray(values) for values in (transform.mean, transform.std))
        if not mean.shape == deviation.shape == (bins,) or not np.isfinite(mean).all() or not (deviation > 0).all():
            raise InputError(f"{transform.stats_npz_path} must contain a mean and a std above 0 for each of {bins} bins")
        return partial(normalised_by_statistics, mean=mean, deviation=deviation)
    raise InputError(
        f"the data configuration has the transform {type(transform).__name__} for unseen data, which cannot be exported; "
        "each must be one of utterance_cmvn, global_cmvn"
    )
