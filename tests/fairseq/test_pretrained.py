import pytest
import torch
from conftest import same_weights, tiny_flags, tiny_model

from residual_st.compression import CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.fairseq.pretrained import load_pretrained


def save(model, path):
    torch.save({"model": model.state_dict()}, path)
    return str(path)


def test_encoder_and_decoder_of_the_same_plan_are_loaded(tmp_path):
    source = tiny_model(seed=2)
    path = save(source, tmp_path / "source.pt")
    model = tiny_model(seed=3, load_pretrained_encoder_from=path, load_pretrained_decoder_from=path)
    for actual, expected in zip(model.state_dict().values(), source.state_dict().values()):
        assert torch.equal(actual, expected)


def test_flags_of_the_new_model_omit_the_pretrained_file(tmp_path):
    flags = tiny_flags(load_pretrained_encoder_from=save(tiny_model(), tmp_path / "source.pt"))
    load_pretrained(tiny_model().encoder, flags, "load_pretrained_encoder_from")
    assert flags.load_pretrained_encoder_from is None


def test_ctc_projection_of_another_dictionary_is_skipped(tmp_path):
    path = save(tiny_model(seed=2, ctc_weight=0.3), tmp_path / "asr.pt")
    without = tiny_model(seed=3, load_pretrained_encoder_from=path)
    assert without.encoder.ctc_proj is None
    same_size = tiny_model(seed=3, ctc_weight=0.3, load_pretrained_encoder_from=path)
    assert torch.equal(same_size.encoder.ctc_proj.weight, tiny_model(seed=2, ctc_weight=0.3).encoder.ctc_proj.weight)


DENSE = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}


@pytest.mark.parametrize(
    ("source_flags", "flags", "message"),
    [
        ({**DENSE, "encoder_layers": 5}, {}, "it has no transformer_layers.5"),
        ({**DENSE, "encoder_ffn_embed_dim": 40}, {}, r"fc1.weight has shape \(40, 32\), this model's has \(48, 32\)"),
        ({}, DENSE, "it shares its layers in groups 0,0,0,1,1,1, this model has a dense encoder"),
        (
            {"encoder_group_size": 2},
            {},
            "it shares its layers in groups 0,0,1,1,2,2, this model shares its layers in groups 0,0,0,1,1,1",
        ),
        ({"encoder_sharing_pattern": "cycle"}, {}, "it shares its layers in groups 0,1,0,1,0,1, this model shares"),
        (
            {"encoder_residual_rank": 4},
            {},
            r"its transformer_layers.0.self_attn.k_proj.up has shape \(32, 4\), this model's has \(32, 2\)",
        ),
        ({"encoder_residual_diagonal": False}, {}, "it has no transformer_layers.0.self_attn.k_proj.diagonal"),
        ({"encoder_embed_dim": 64}, {}, "has shape"),
    ],
)
def test_pretrained_model_that_does_not_fit_is_refused(tmp_path, source_flags, flags, message):
    path = save(tiny_model(**source_flags), tmp_path / "source.pt")
    with pytest.raises(InputError, match=f"--load-pretrained-encoder-from .*source.pt does not fit this model: .*{message}"):
        tiny_model(load_pretrained_encoder_from=path, **flags)


@pytest.mark.parametrize("flag", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
            "coder_attention_heads=2, this model .*=4",
        ),
        ({"activation_fn": "gelu"}, "activation_fn=gelu, this model activation_fn=relu"),
        ({"no_scale_embedding": True}, "no_scale_embedding=True, this model no_scale_embedding=False"),
    ],
)
def test_differences_that_no_shape_shows_are_refused(tmp_path, options, message, flag):
    """For example another number of heads, which fits every weight shape but computes something else."""
    dense, path = "s2t_transformer_s", tmp_path / "a.pt"
    torch.save({"model": tiny_model(dense, **options).state_dict(), "cfg": {"model": tiny_flags(dense, **options)}}, path)
    with pytest.raises(InputError, match=f"--load-pretrained-{flag}-from .*a.pt does not fit this model: it has .*{message}"):
        tiny_model(**{f"load_pretrained_{flag}_from": str(path)})


def test_flags_of_the_other_part_are_ignored(tmp_path):
    options = {"decoder_attention_heads": 2, "share_decoder_input_output_embed": True}
    torch.save({"model": tiny_model(**options).state_dict(), "cfg": {"model": tiny_flags(**options)}}, tmp_path / "a.pt")
    assert tiny_model(load_pretrained_encoder_from=str(tmp_path / "a.pt")) is not None


def test_dense_encoder_is_compressed_while_loading(tmp_path, caplog):
    caplog.set_level("INFO", "fairseq.sharing")  # earlier commands in this process may have disabled it
    source = tiny_model("s2t_transformer_s", seed=2, ctc_weight=0.3)
    model = tiny_model(seed=3, load_pretrained_encoder_from=save(source, tmp_path / "dense.pt"), ctc_weight=0.3)
    expected = compress(source, CompressionConfig(group_size=3, rank=2))
    assert f"{expected.parameters_before:,} -> {expected.parameters_after:,}" in caplog.text
    for name, value in source.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)


def test_conversion_does_not_change_random_draws(tmp_path):
    path = save(tiny_model("s2t_transformer_s", seed=2), tmp_path / "dense.pt")
    decoders = [tiny_model(seed=3, **options).decoder.state_dict() for options in ({}, {"load_pretrained_encoder_from": path})]
    assert same_weights(*decoders)


def test_missing_file_is_refused():
    with pytest.raises(InputError, match="nowhere.pt does not exist"):
        tiny_model(load_pretrained_encoder_from="nowhere.pt")
