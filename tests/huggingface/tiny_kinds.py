"""Small random models of every kind of Hugging Face model, and their inputs. Some need a newer transformers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from tiny_models import SIZE

RATE = 16_000
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
STRIDE = 8  # of features, in frames of 10 ms: four times the usual one, for shorter sequences
SAMPLES = {
    **WIDTHS,
    "conv_dim": (16,) * 4,
    "conv_kernel": (10, 8, 8, 4),
    "conv_stride": (10, 8, 8, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 30,
}
CONFORMER = {**WIDTHS, "feature_projection_input_dim": 80 * STRIDE, "vocab_size": 30, "conv_depthwise_kernel_size": 5}
WORDS = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def samples(masked: bool = True) -> transformers.FeatureExtractionMixin:
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked, do_normalize=True)


def wav2vec2(name: str, **settings):
    model = getattr(transformers, name)
    return model(model.config_class(**SAMPLES, feat_extract_norm="layer", **settings)), samples()


def unmasked():
    """Like wav2vec 2.0 base, which has no mask for padding."""
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SAMPLES)), samples(masked=False)


def wav2vec2_bert(**settings):
    config = transformers.Wav2Vec2BertConfig(
        **CONFORMER, left_max_position_embeddings=8, right_max_position_embeddings=3, **settings
    )
    return transformers.Wav2Vec2BertForCTC(config), transformers.SeamlessM4TFeatureExtractor(stride=STRIDE)


def seamless(name: str):
    small = {
        "hidden_size": 32,
        "feature_projection_input_dim": 80 * STRIDE,
        "speech_encoder_layers": 4,
        "speech_encoder_attention_heads": 4,
        "speech_encoder_intermediate_size": 48,
        "speech_encoder_chunk_size": 5,
        "left_max_position_embeddings": 8,
        "right_max_position_embeddings": 3,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 40,
        "t2u_vocab_size": 40,
        "t2u_encoder_layers": 1,
        "t2u_decoder_layers": 1,
        "t2u_encoder_attention_heads": 4,
        "t2u_decoder_attention_heads": 4,
        "t2u_encoder_ffn_dim": 48,
        "t2u_decoder_ffn_dim": 48,
        "char_vocab_size": 40,
        "unit_hifi_gan_vocab_size": 40,
        "unit_embed_dim": 16,
        "lang_embed_dim": 8,
        "spkr_embed_dim": 8,
        "upsample_initial_channel": 64,
        "conv_depthwise_kernel_size": 5,
    }
    model = getattr(transformers, name)(transformers.SeamlessM4Tv2Config(**small, **WORDS))
    model.generation_config.text_decoder_lang_to_code_id = {"eng": 7, "deu": 8}
    model.generation_config._from_model_config = False  # so that it is loaded from its file
    return model, transformers.SeamlessM4TFeatureExtractor(stride=STRIDE)


def moonshine():
    config = transformers.MoonshineConfig(
        **WORDS,
        hidden_size=32,
        intermediate_size=48,
        encoder_num_hidden_layers=4,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=4,
        decoder_num_attention_heads=4,
        max_position_embeddings=40,
    )
    return transformers.MoonshineForConditionalGeneration(config), samples()


def speech_encoder_decoder():
    encoder = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SAMPLES, feat_extract_norm="layer"))
    text = {**SIZE, "is_decoder": True, "add_cross_attention": True, "max_position_embeddings": 40}
    decoder = transformers.MBartForCausalLM(transformers.MBartConfig(**text))
    model = transformers.SpeechEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        setattr(model.config, name, SIZE[name])
        setattr(model.generation_config, name, SIZE[name])
    return model, samples()


def whisper():
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SIZE, num_mel_bins=80))
    model.generation_config.suppress_tokens = model.generation_config.begin_suppress_tokens = None
    return model, transformers.WhisperFeatureExtractor()


def speech2text():
    return (
        transformers.Speech2TextForConditionalGeneration(transformers.Speech2TextConfig(**SIZE)),
        transformers.Speech2TextFeatureExtractor(),
    )


def qwen2_audio():
    audio = {name: value for name, value in SIZE.items() if name.startswith(("encoder", "d_model"))}
    text = {**WIDTHS, "num_hidden_layers": 1, "num_key_value_heads": 4, "vocab_size": 60, "model_type": "qwen2"}
    audio |= {"num_mel_bins": 80, "model_type": "qwen2_audio_encoder"}
    config = transformers.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=59)
    extractor = transformers.WhisperFeatureExtractor(return_attention_mask=True)
    return transformers.Qwen2AudioForConditionalGeneration(config), extractor


@dataclass(frozen=True)
class Tiny:
    """The name of a kind, a function that builds a model and its feature extractor, and the path of the stack."""

    kind: str
    build: Callable
    stack: str


W2V = "wav2vec2.encoder.layers"
TOWER = "model.audio_tower.layers" if hasattr(transformers, "Qwen2AudioModel") else "audio_tower.layers"  # in older releases
TINY = {
    "whisper": Tiny("whisper", whisper, "model.encoder.layers"),
    "speech2text": Tiny("speech2text", speech2text, "model.encoder.layers"),
    "wav2vec2": Tiny("wav2vec2", lambda: wav2vec2("Wav2Vec2ForCTC", do_stable_layer_norm=True, adapter_attn_dim=8), W2V),
    "wav2vec2 without a mask": Tiny("wav2vec2", unmasked, W2V),
    "wav2vec2 alone": Tiny("wav2vec2", lambda: wav2vec2("Wav2Vec2Model"), "encoder.layers"),
    "data2vec": Tiny("wav2vec2", lambda: wav2vec2("Data2VecAudioForCTC", conv_pos_kernel_size=5), "data2vec_audio.encoder.layers"),
    "hubert": Tiny("wav2vec2", lambda: wav2vec2("HubertForCTC"), "hubert.encoder.layers"),
    "wavlm": Tiny("wav2vec2", lambda: wav2vec2("WavLMForCTC"), "wavlm.encoder.layers"),
    "wavlm alone": Tiny("wav2vec2", lambda: wav2vec2("WavLMModel", do_stable_layer_norm=True), "encoder.layers"),
    "conformer, rotary": Tiny(
        "wav2vec2_conformer",
        lambda: wav2vec2("Wav2Vec2ConformerForCTC", position_embeddings_type="rotary"),
        "wav2vec2_conformer.encoder.layers",
    ),
    "conformer, relative": Tiny(
        "wav2vec2_conformer",
        lambda: wav2vec2("Wav2Vec2ConformerForCTC", position_embeddings_type="relative"),
        "wav2vec2_conformer.encoder.layers",
    ),
    "wav2vec2_bert": Tiny("wav2vec2_bert", wav2vec2_bert, "wav2vec2_bert.encoder.layers"),
    "wav2vec2_bert, relative": Tiny(
        "wav2vec2_bert", lambda: wav2vec2_bert(position_embeddings_type="relative"), "wav2vec2_bert.encoder.layers"
    ),
    "seamless, text": Tiny("seamless_m4t_v2", lambda: seamless("SeamlessM4Tv2ForSpeechToText"), "speech_encoder.encoder.layers"),
    "seamless, whole": Tiny("seamless_m4t_v2", lambda: seamless("SeamlessM4Tv2Model"), "speech_encoder.encoder.layers"),
    "moonshine": Tiny("moonshine", moonshine, "model.encoder.layers"),
    "qwen2_audio": Tiny("qwen2_audio", qwen2_audio, TOWER),
    "speech_encoder_decoder": Tiny("speech_encoder_decoder", speech_encoder_decoder, "encoder.encoder.layers"),
}


def make(name: str, folder: Path | None = None) -> tuple[transformers.PreTrainedModel, transformers.FeatureExtractionMixin]:
    """A model with random parameters, so that wrong permutations change its outputs, and its feature extractor."""
    torch.manual_seed(1)
    model, extractor = TINY[name].build()
    with torch.no_grad():
        for part, parameter in model.named_parameters():
            is_convolution = "conv" in part and parameter.dim() == 3 and parameter.size(-1) > 1
            parameter.add_(torch.randn_like(parameter) * (0.02 if is_convolution else 0.15))
    if folder is not None:
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    return model.eval(), extractor


def noise(seconds: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def batch_of(extractor, *utterances: np.ndarray) -> dict[str, torch.Tensor]:
    padding = True if "Whisper" not in type(extractor).__name__ else "max_length"
    options = {"padding": padding, "return_attention_mask": extractor.return_attention_mask}
    return dict(extractor(list(utterances), sampling_rate=RATE, return_tensors="pt", **options))


@torch.no_grad()
def outputs(model: transformers.PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scores, or states of models without scores."""
    if model.config.model_type == "qwen2_audio":
        return scores_of_qwen2_audio(model, **inputs)
    size = len(next(iter(inputs.values())))
    words = torch.randint(3, 60, (size, 5), generator=torch.Generator().manual_seed(3))
    options = {"decoder_input_ids": words} if model.config.is_encoder_decoder else {}
    if hasattr(model, "set_modality"):
        model.set_modality("speech")
    output = model(**inputs, **options)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def scores_of_qwen2_audio(model, input_features: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Scores of the last words of a prompt that contains the audio, one utterance at a time."""
    scores = []
    for features, mask in zip(input_features.split(1), attention_mask.split(1)):
        _, count = getattr(model, "model", model).audio_tower._get_feat_extract_output_lengths(mask.sum())
        words = torch.tensor([[5, *[model.config.audio_token_index] * int(count), 6, 7]])
        output = model(words, features, torch.ones_like(words), mask)
        scores.append(output.logits[:, -2:])
    return torch.cat(scores)
