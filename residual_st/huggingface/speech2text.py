"""Conversion between fairseq's `s2t_transformer` and Hugging Face's Speech2Text, the same model with different names.

`transformers` has its own converter in one direction, which cannot read checkpoints since torch 2.6.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    GenerationConfig,
    Speech2TextConfig,
    Speech2TextFeatureExtractor,
    Speech2TextForConditionalGeneration,
    Speech2TextProcessor,
    Speech2TextTokenizer,
)

from residual_st.errors import InputError
from residual_st.fairseq.kinds.s2t_transformer import ENCODER
from residual_st.fairseq.model_input import ModelInput

_PREFIXES = {
    "encoder.subsample.": "model.encoder.conv.",
    f"{ENCODER.path}.": "model.encoder.layers.",
    "encoder.layer_norm.": "model.encoder.layer_norm.",
    "decoder.output_projection.": "lm_head.",
    "decoder.": "model.decoder.",
}
_MARKS = ("version", "embed_positions.")  # entries that are not parameters
_CTC_HEAD = "ctc_head.safetensors"  # Speech2Text has no CTC head; kept for converting back
_HEAD_NAMES = ("encoder.ctc_proj.weight", "encoder.ctc_proj.bias")

# fairseq's flag -> Speech2Text's, with the same meaning
_FLAGS = {
    **{
        f"{part}_{flag}": f"{part}_{name}"
        for part in ("encoder", "decoder")
        for flag, name in (("layers", "layers"), ("attention_heads", "attention_heads"), ("ffn_embed_dim", "ffn_dim"))
    },
    "encoder_embed_dim": "d_model",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "activation_fn": "activation_function",
    "conv_channels": "conv_channels",
}
# same name in both
_TASK_FLAGS = ("max_source_positions", "max_target_positions", "input_feat_per_channel", "input_channels")
# fixed in Speech2Text, regardless of its config
_FIXED = {
    "encoder_normalize_before": True,
    "decoder_normalize_before": True,
    "no_decoder_final_norm": False,
    "conv_version": "s2t_transformer",
    "decoder_learned_pos": False,
    "no_token_positional_embeddings": False,
    "layernorm_embedding": False,
    "adaptive_input": False,
    "adaptive_softmax_cutoff": None,
    "encoder_chunk_frames": None,
}
_ACTIVATIONS = ("relu", "gelu")
_SAMPLE_RATE = 16_000


def to_speech2text(flags: argparse.Namespace, weights: dict[str, Tensor]) -> Speech2TextForConditionalGeneration:
    """Convert a model to Speech2Text, without its CTC head.

    Args:
        flags: all flags of an `s2t_transformer`, including those of its task.
        weights: its state dict.

    Raises:
        InputError: if Speech2Text does not support the model, such as one with post-norm layers or different widths.
    """
    for name, value in _FIXED.items():
        if getattr(flags, name, value) != value:
            raise InputError(f"Speech2Text does not support {name}={getattr(flags, name)}; it must be {value}")
    for name in ("decoder_embed_dim", "decoder_output_dim", "decoder_input_dim"):
        if getattr(flags, name) != flags.encoder_embed_dim:
            widths = f"{name}={getattr(flags, name)}, encoder_embed_dim={flags.encoder_embed_dim}"
            raise InputError(f"Speech2Text needs one width, but the model has {widths}")
    if flags.activation_fn not in _ACTIVATIONS:
        raise InputError(f"activation_fn={flags.activation_fn} is not supported; it must be one of {', '.join(_ACTIVATIONS)}")
    kernels = [int(size) for size in flags.conv_kernel_sizes.split(",")]
    config = Speech2TextConfig(
        **{name: getattr(flags, flag) for flag, name in _FLAGS.items()},
        **{name: getattr(flags, name) for name in _TASK_FLAGS},
        tie_word_embeddings=flags.share_decoder_input_output_embed,
        vocab_size=len(weights["decoder.embed_tokens.weight"]),
        scale_embedding=not flags.no_scale_embedding,
        num_conv_layers=len(kernels),
        conv_kernel_sizes=kernels,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    model = Speech2TextForConditionalGeneration(config)
    renamed = {}
    for name, value in weights.items():
        if name.partition(".")[2].startswith(_MARKS) or name in _HEAD_NAMES:
            continue
        old, new = next(pair for pair in _PREFIXES.items() if name.startswith(pair[0]))
        renamed[new + name.removeprefix(old)] = value
    kept = model.load_state_dict(renamed, strict=False)
    lost = [name for name in kept.missing_keys if "embed_positions" not in name] + kept.unexpected_keys
    if lost:
        raise InputError(f"Speech2Text does not support this model: it has no {lost[0]}")
    # fairseq-generate's defaults
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, suppress_tokens=[1],
        num_beams=5, early_stopping=True, min_new_tokens=1, max_new_tokens=200,
    )  # fmt: skip
    return model.eval()


def from_speech2text(model: Speech2TextForConditionalGeneration) -> tuple[list[str], dict, dict[str, Tensor]]:
    """Convert to an `s2t_transformer`: flags as options of fairseq-train, flags added by the task, and the state dict."""
    config = model.config
    options = {flag: getattr(config, name) for flag, name in _FLAGS.items()}
    options["conv_kernel_sizes"] = ",".join(map(str, config.conv_kernel_sizes))
    options["decoder_embed_dim"] = config.d_model
    switches = {"share_decoder_input_output_embed": config.tie_word_embeddings, "no_scale_embedding": not config.scale_embedding}
    switches |= {"encoder_normalize_before": True, "decoder_normalize_before": True}
    arguments = [str(part) for flag, value in options.items() for part in (_option(flag), value)]
    arguments += [_option(flag) for flag, widths in switches.items() if widths]
    weights = {"decoder.version": torch.tensor([3.0])}  # without it, fairseq omits the decoder's last norm
    for name, value in model.state_dict().items():
        if "embed_positions" not in name:
            old, new = next((old, new) for old, new in _PREFIXES.items() if name.startswith(new))
            weights[old + name.removeprefix(new)] = value
    return arguments, {"tgt_dict_size": config.vocab_size, **{name: getattr(config, name) for name in _TASK_FLAGS}}, weights


def _option(flag: str) -> str:
    return "--" + flag.replace("_", "-")


def feature_extractor(source: ModelInput) -> Speech2TextFeatureExtractor:
    """Speech2Text's feature extractor for the same input. Raises InputError if it cannot compute it."""
    if source.sample_rate != _SAMPLE_RATE:
        raise InputError(
            f"the data configuration has sample_rate={source.sample_rate}; for Speech2Text it must be {_SAMPLE_RATE}, "
            "because without torchaudio its frames have 400 samples at any rate"
        )
    applied = [type(transform).__name__ for transform in source.transforms]
    if applied not in ([], ["UtteranceCMVN"]):
        raise InputError(
            f"the data configuration has the transforms {', '.join(applied)} for unseen data; Speech2Text can have none or "
            "utterance_cmvn"
        )
    normalised = {"do_ceptral_normalize": bool(applied)}
    for transform in source.transforms:
        normalised |= {"normalize_means": transform.norm_means, "normalize_vars": transform.norm_vars}
    return Speech2TextFeatureExtractor(source.bins, source.sample_rate, source.bins, **normalised)


def input_entries(folder: Path) -> dict:
    """Entries that a data configuration needs for the input of a folder's feature extractor; empty if it has none."""
    try:
        extractor = Speech2TextFeatureExtractor.from_pretrained(folder)
    except OSError:  # raised by transformers for a folder without one
        return {}
    entries = {"sample_rate": extractor.sampling_rate, "input_feat_per_channel": extractor.num_mel_bins}
    if not extractor.do_ceptral_normalize:
        return entries
    options = {"norm_means": extractor.normalize_means, "norm_vars": extractor.normalize_vars}
    return {**entries, "transforms": {"*": ["utterance_cmvn"]}, "utterance_cmvn": options}


def save_processor(folder: Path, symbols: list[str], sentencepiece_model: Path, extractor: Speech2TextFeatureExtractor) -> None:
    """Save the processor, which converts audio to the model's input and words to text.

    Args:
        symbols: the dictionary, including special words.
        sentencepiece_model: the model of its pieces.
        extractor: the result of `feature_extractor`.
    """
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}, ensure_ascii=False), encoding="utf-8")
    tokenizer = Speech2TextTokenizer(str(vocabulary), str(sentencepiece_model))
    Speech2TextProcessor(extractor, tokenizer).save_pretrained(folder)


def save_ctc_head(folder: Path, weights: dict[str, Tensor], ctc_weight: float) -> None:
    """Save the CTC head, if there is one, in a file that Speech2Text does not read."""
    head = {name: weights[name].contiguous() for name in _HEAD_NAMES if name in weights}
    if head:
        save_file(head, folder / _CTC_HEAD, {"ctc_weight": str(ctc_weight)})


def read_ctc_head(folder: Path) -> tuple[dict[str, Tensor], float]:
    """The CTC head saved by `save_ctc_head` and the weight of its loss; empty and 0 if there is none."""
    path = folder / _CTC_HEAD
    if not path.exists():
        return {}, 0.0
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["ctc_weight"])  # noqa: SIM118
