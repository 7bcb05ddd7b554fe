"""Patches of models based on wav2vec 2.0 or HuBERT, and of their audio input."""

import argparse
import dataclasses

import torch
from fairseq.data import Dictionary
from fairseq.data.audio import audio_utils
from fairseq.models.hubert.hubert_asr import HubertEncoder
from fairseq.models.wav2vec.wav2vec2_asr import Wav2Vec2AsrConfig, Wav2VecEncoder
from omegaconf import OmegaConf, open_dict

from residual_st.fairseq.patches.registry import patch
from residual_st.wrapping import wrap


@patch("dictionaries")
def read_dictionaries() -> None:
    """Allow torch to read checkpoints with a dictionary: HuBERT's, and those of models trained on letters.

    Since 2.6, torch refuses them with "Weights only load failed", so that such a run cannot be resumed and its model cannot be
    used. A Dictionary contains words and numbers, and reading it runs no code.
    """
    torch.serialization.add_safe_globals([Dictionary])


@patch("wav2vec-flags")
def complete_wav2vec_flags() -> None:
    """Allow building `xm_transformer` from flags: wav2vec settings without a flag get their defaults.

    Without this patch, fairseq-fixed ends with "'Namespace' object has no attribute 'load_ema'".
    """

    @wrap(Wav2VecEncoder, "__init__")
    def build(before, self, cfg, *arguments, **keywords):
        if isinstance(cfg, argparse.Namespace) or OmegaConf.get_type(cfg) is dict:  # the types of flags in our checkpoints
            defaults = {option.name: option.default for option in dataclasses.fields(Wav2Vec2AsrConfig)}
            cfg = argparse.Namespace(**{**defaults, **(vars(cfg) if isinstance(cfg, argparse.Namespace) else cfg)})
        before(self, cfg, *arguments, **keywords)


@patch("hubert-ctc")
def complete_hubert_flags() -> None:
    """Allow building `hubert_ctc`: fairseq-fixed reads `autoregressive` from its configuration, which has no such key."""

    @wrap(HubertEncoder, "__init__")
    def build(before, self, cfg, *arguments, **keywords):
        if "autoregressive" not in cfg:
            with open_dict(cfg):
                cfg.autoregressive = False
        before(self, cfg, *arguments, **keywords)


@patch("waveforms")
def read_waveforms_without_torchaudio() -> None:
    """Use a recording unchanged if it needs no conversion.

    fairseq always imports torchaudio's SoX bindings, which were removed in torchaudio 2.9: models that read waveforms end with
    "Please install torchaudio" or, with a torchaudio for another torch, with "Could not load this library".
    """

    @wrap(audio_utils, "convert_waveform")
    def convert_waveform(before, waveform, sample_rate, normalize_volume=False, to_mono=False, to_sample_rate=None):
        if normalize_volume or (to_mono and len(waveform) > 1) or to_sample_rate not in (None, sample_rate):
            return before(waveform, sample_rate, normalize_volume, to_mono, to_sample_rate)
        return waveform, sample_rate
