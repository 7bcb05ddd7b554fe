"""Calibrated compression of encoders of several libraries, without any description of their layers."""

from argparse import Namespace

import pytest
import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from torch import nn

from residual_st.compat import hide_broken_torchaudio
from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.compression.moments import gather
from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, check_alike, unshare_layers
from residual_st.stacks import ESPNET, attention_heads, describe_stack, feed_forward_units, heaviest_stack

WIDTH, LAYERS, HEADS = 16, 4, 4


def frames(width: int, *lengths: int) -> tuple:
    generator = torch.Generator().manual_seed(sum(lengths))
    padding = torch.tensor([[place >= length for place in range(max(lengths))] for length in lengths])
    return torch.randn(len(lengths), max(lengths), width, generator=generator), padding


class SpeechToText(nn.Module):
    """The encoder of a fairseq speech-to-text model."""

    input_width = 80

    def __init__(self, arch: str, **options):
        super().__init__()
        sizes = {"encoder_layers": LAYERS, "encoder_embed_dim": WIDTH, "encoder_ffn_embed_dim": 24}
        flags = Namespace(
            **sizes, encoder_attention_heads=HEADS, input_feat_per_channel=80, input_channels=1, fp16=False, **options
        )
        ARCH_CONFIG_REGISTRY[arch](flags)
        self.encoder = ARCH_MODEL_REGISTRY[arch].build_encoder(flags)

    def forward(self, x, padding):
        out = self.encoder(x, (~padding).sum(1))
        x, masks = out["encoder_out"][0], out["encoder_padding_mask"]
        return x.masked_fill(masks[0].T[..., None], 0) if masks else x


class Wav2Vec(nn.Module):
    """fairseq's wav2vec 2.0 or HuBERT behind their feature extractors."""

    input_width = WIDTH

    def __init__(self, **options):
        super().__init__()
        sizes = {"encoder_layers": LAYERS, "encoder_embed_dim": WIDTH, "encoder_attention_heads": HEADS}
        config = Wav2Vec2Config(encoder_ffn_embed_dim=24, conv_pos=4, conv_pos_groups=4, encoder_layerdrop=0, **sizes, **options)
        self.encoder = TransformerEncoder(config)

    def forward(self, x, padding):
        return self.encoder(x, padding)[0].masked_fill(padding[..., None], 0)


class HuggingFace(nn.Module):
    """The encoder of a Hugging Face speech model."""

    input_width = WIDTH

    def __init__(self, name: str, **options):
        super().__init__()
        hide_broken_torchaudio()
        import transformers

        sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 24}
        small = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 4, "conv_depthwise_kernel_size": 3}
        config = getattr(transformers, f"{name}Config")(
            conv_dim=[16], conv_stride=[5], conv_kernel=[5], **sizes, **small, **options
        )
        self.encoder = getattr(transformers, f"{name}Model")(config).encoder

    def forward(self, x, padding):
        return self.encoder(x.clone(), attention_mask=~padding).last_hidden_state.masked_fill(padding[..., None], 0)


ENCODERS = {
    "conformer": lambda: SpeechToText("s2t_conformer", pos_enc_type="abs"),
    "conformer, ESPnet's attention": lambda: SpeechToText("s2t_conformer", attn_type="espnet", pos_enc_type="abs"),
    "conformer, rotary": lambda: SpeechToText("s2t_conformer", attn_type="espnet", pos_enc_type="rope"),
    "conformer, relative": lambda: SpeechToText("s2t_conformer", attn_type="espnet", pos_enc_type="rel_pos"),
    "convtransformer": lambda: SpeechToText("convtransformer"),
    "wav2vec 2.0": lambda: Wav2Vec(layer_norm_first=True),
    "wav2vec 2.0, padded to a multiple": lambda: Wav2Vec(required_seq_len_multiple=4),
    "Hugging Face's wav2vec 2.0": lambda: HuggingFace("Wav2Vec2"),
    "Hugging Face's HuBERT": lambda: HuggingFace("Hubert", do_stable_layer_norm=True),
    "Hugging Face's conformer, relative": lambda: HuggingFace("Wav2Vec2Conformer", position_embeddings_type="relative"),
    "Hugging Face's conformer, rotary": lambda: HuggingFace("Wav2Vec2Conformer", position_embeddings_type="rotary"),
}


def trained(kind: str) -> nn.Module:
    """A model with random parameters, including biases."""
    torch.manual_seed(1)
    model = ENCODERS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def calibration_of(model: nn.Module) -> Calibration:
    """In the first batch the length equals the width."""
    lengths = (9, 8, 8, 7, 9, 6, 8, 9, 7), (60, 41), (44, 30, 52)
    batches = [frames(model.input_width, *its_lengths) for its_lengths in lengths]

    def encode(model, batch):
        return model(*batch)

    expected_outputs = {id(batch): encode(model, batch).detach() for batch in batches}

    def loss(model, batch):  # 0 for the dense model
        return 1 + (encode(model, batch) - expected_outputs[id(batch)] + 1e-3).square().sum()

    return Calibration(batches, loss, encode)


@pytest.mark.parametrize("kind", ENCODERS)
def test_full_rank_keeps_outputs_and_unsharing_restores_the_modules(kind):
    model = trained(kind)
    calibration = calibration_of(model)
    expected, names = [model(*batch) for batch in calibration.batches], list(model.state_dict())
    _, layers = heaviest_stack(model)
    ranks = "/".join(str(min(shape)) for shape in check_alike(layers).values())
    compress(
        model,
        CompressionConfig(group_size=2, rank=",".join([ranks] * LAYERS)),
        stack=describe_stack(layers),
        calibration=calibration,
    )
    assert any(isinstance(module, ResidualLinear) for module in layers.modules())
    for batch, output in zip(calibration.batches, expected):
        torch.testing.assert_close(model(*batch), output, rtol=1e-4, atol=1e-5)
    unshare_layers(layers)
    assert list(model.state_dict()) == names
    for batch, output in zip(calibration.batches, expected):
        torch.testing.assert_close(model(*batch), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["conformer", "conformer, relative", "wav2vec 2.0", "Hugging Face's conformer, relative"])
def test_calibration_corrects_and_refines(kind):
    model = trained(kind)
    calibration = calibration_of(model)

    def loss(calibration_data, updates):
        model = trained(kind)
        stack = describe_stack(heaviest_stack(model)[1])
        config = CompressionConfig(group_size=4, rank=2, refine_updates=updates)
        compress(model, config, stack=stack, calibration=calibration_data)
        return calibration.held_out_loss(model)

    assert loss(calibration, 40) < loss(calibration, 0) < loss(None, 0)


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("conformer", attention_heads("self_attn", HEADS)),
        ("conformer, relative", attention_heads("self_attn", HEADS, ESPNET, "relative")),
    ],
)
def test_alignment_lowers_the_loss(kind, heads):
    calibration = calibration_of(trained(kind))

    def loss(*symmetries):
        model = trained(kind)
        stack = describe_stack(heaviest_stack(model)[1], symmetries=symmetries)
        compress(model, CompressionConfig(group_size=2, rank=2), stack=stack, calibration=calibration)
        return calibration.held_out_loss(model)

    halves = [feed_forward_units(f"{part}.w_1", f"{part}.w_2", nn.SiLU()) for part in ("ffn1", "ffn2")]
    assert loss(heads, *halves) < loss()


@pytest.mark.parametrize("kind", ENCODERS)
def test_calibration_ignores_padding(kind):
    """Each matrix counts the positions of real utterances; matrices of relative positions count the relative positions."""
    model = trained(kind)
    batches = [frames(model.input_width, *lengths) for lengths in ((60, 41), (44, 30, 52))]
    moments = gather(
        model, describe_stack(heaviest_stack(model)[1]), Calibration(batches, lambda model, batch: model(*batch).square().sum())
    )
    counts = {name: matrix.count for name, matrix in moments[0].items()}
    positions = {name: counts.pop(name) for name in list(counts) if name.endswith("linear_pos")}
    subsampled = model.input_width == 80
    assert set(counts.values()) == {sum(-(-length // 4) for length in (60, 41, 44, 30, 52)) if subsampled else 227}
    assert set(positions.values()) <= {2 * 15 - 1 + 2 * 13 - 1 if subsampled else 2 * 60 - 1 + 2 * 52 - 1}


@pytest.mark.parametrize("kind", ["conformer, relative", "wav2vec 2.0"])
def test_activation_checkpointing_does_not_change_calibration(kind):
    states = []
    for is_checkpointed in (False, True):
        model = trained(kind)
        _, layers = heaviest_stack(model)
        calibration = calibration_of(model)
        for layer in layers if is_checkpointed else ():
            checkpoint_wrapper(layer)
        compress(
            model, CompressionConfig(group_size=2, rank=2, refine_updates=4), stack=describe_stack(layers), calibration=calibration
        )
        states.append(model.state_dict())
        assert all(hasattr(layer, "precheckpoint_forward") and "forward" in vars(layer) for layer in layers) == is_checkpointed
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_weights_read_without_calling_their_module_are_refused_for_calibration():
    """WavLM passes the weights of its projections to a torch function."""
    torch.manual_seed(1)
    model = HuggingFace("WavLM").eval()
    calibration, (_, layers) = calibration_of(model), heaviest_stack(model)
    with pytest.raises(InputError, match=r"the calibration data never reached attention.\w+ of layer 0"):
        compress(model, stack=describe_stack(layers), calibration=calibration)
    ranks = "/".join(str(min(shape)) for shape in check_alike(layers).values())
    compress(model, CompressionConfig(group_size=2, rank=",".join([ranks] * LAYERS)), stack=describe_stack(layers))
    assert calibration.held_out_loss(model) == pytest.approx(1, abs=0.01)
