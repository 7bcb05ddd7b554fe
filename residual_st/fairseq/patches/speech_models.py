"""Patches of the models that start from wav2vec 2.0 or HuBERT, and of the audio that they read."""

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
    """Let torch read checkpoints that hold a dictionary: HuBERT's, and those of models that are trained on letters.

    Since 2.6 it refuses them with "Weights only load failed", so that such a run cannot resume, nor its model be used. A Dictionary
    is words and numbers, and runs no code when it is read.
    """
    torch.serialization.add_safe_globals([Dictionary])


@patch("wav2vec-flags")
def complete_wav2vec_flags() -> None:
    """Let `xm_transformer` be built from flags: those of wav2vec that it has no flag for get their defaults.

    Without it, fairseq-fixed ends with "'Namespace' object has no attribute 'load_ema'".
    """

    @wrap(Wav2VecEncoder, "__init__")
    def build(before, self, cfg, *arguments, **keywords):
        if isinstance(cfg, argparse.Namespace) or OmegaConf.get_type(cfg) is dict:  # which flags are, of a checkpoint of ours
            defaults = {option.name: option.default for option in dataclasses.fields(Wav2Vec2AsrConfig)}
            cfg = argparse.Namespace(**{**defaults, **(vars(cfg) if isinstance(cfg, argparse.Namespace) else cfg)})
        before(self, cfg, *arguments, **keywords)


@patch("hubert-ctc")
def complete_hubert_flags() -> None:
    """Let `hubert_ctc` be built: fairseq-fixed looks for `autoregressive` in its configuration, which has no such key."""

    @wrap(HubertEncoder, "__init__")
    def build(before, self, cfg, *arguments, **keywords):
        if "autoregressive" not in cfg:
            with open_dict(cfg):
                cfg.autoregressive = False
        before(self, cfg, *arguments, **keywords)


@patch("waveforms")
def read_waveforms_without_torchaudio() -> None:
    """Take a recording as it is where nothing about it is to be converted.

    fairseq imports torchaudio's bindings of SoX first, which since torchaudio 2.9 there are none of: models that read waveforms end
    with "Please install torchaudio", or, beside torch of another build, with "Could not load this library".
    """

    @wrap(audio_utils, "convert_waveform")
    def convert_waveform(before, waveform, sample_rate, normalize_volume=False, to_mono=False, to_sample_rate=None):
        if normalize_volume or (to_mono and len(waveform) > 1) or to_sample_rate not in (None, sample_rate):
            return before(waveform, sample_rate, normalize_volume, to_mono, to_sample_rate)
        return waveform, sample_rate
