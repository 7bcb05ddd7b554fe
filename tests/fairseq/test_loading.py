"""Loading state dicts of one form into models of another."""

from types import SimpleNamespace

import fairseq.models
import pytest
import torch
from conftest import same_weights, tiny_flags, tiny_model
from fairseq.data import Dictionary

from residual_st.errors import InputError
from residual_st.fairseq.checkpoints import stripped
from residual_st.fairseq.conversion import expand
from residual_st.fairseq.loading import composed, form_difference
from residual_st.sharing import deep_copy

CONFORMER = {"attn_type": "espnet", "pos_enc_type": "rel_pos", "depthwise_conv_kernel_size": 5, "fp16": False}
SHARED = {"encoder_group_size": 2, "encoder_residual_rank": 2, "encoder_residual_diagonal": True}
DENSE = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}


def conformer(seed: int = 1, **options):
    """A conformer with random parameters, including terms that start at 0, built from flags as in fairseq."""
    flags = tiny_flags("s2t_conformer", **{**CONFORMER, **options})
    dictionary = Dictionary()
    for index in range(16):
        dictionary.add_symbol(str(index))
    torch.manual_seed(seed)
    model = fairseq.models.build_model(flags, SimpleNamespace(target_dictionary=dictionary))
    for name, parameter in model.named_parameters():
        if "load_pretrained_encoder_from" not in options and name.endswith((".up", ".diagonal")):
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def outputs(model):
    with torch.no_grad():
        encoded = model.encoder(torch.randn(2, 40, 80, generator=torch.Generator().manual_seed(1)), torch.tensor([40, 31]))
    return encoded["encoder_out"][0]


@pytest.mark.parametrize(
    "model",
    [
        lambda: conformer(**SHARED),
        lambda: conformer(**{**SHARED, "encoder_residual_rank": "2,2,=3,=3,0,4"}),
        lambda: tiny_model(decoder_layers=2, decoder_group_size=2, decoder_residual_rank=2),
        lambda: tiny_model(encoder_residual_rank="2/2/2/2/=5/=32"),
    ],
)
def test_composed_state_dict_equals_the_expanded_model(model):
    shared = model()
    dense = deep_copy(shared)
    expand(dense)
    for name, value in composed(shared.state_dict(), dense.state_dict()).items():
        assert torch.equal(value, dense.state_dict()[name])
    assert composed(shared.state_dict(), dense.state_dict()).keys() == dense.state_dict().keys()


def test_dense_model_loads_a_shared_state_dict_exactly():
    shared, dense = conformer(**SHARED), conformer(seed=2)
    dense.load_state_dict(shared.state_dict())
    torch.testing.assert_close(outputs(dense), outputs(shared), rtol=0, atol=1e-5)


def test_shared_model_approximates_a_dense_state_dict():
    """Better than copying the weights of one layer to its whole group."""
    dense, shared = conformer(), conformer(seed=2, **{**SHARED, "encoder_residual_rank": 8})
    shared.load_state_dict(dense.state_dict())
    error = (outputs(shared) - outputs(dense)).norm() / outputs(dense).norm()
    first = deep_copy(dense)
    for layer in (1, 3, 5):
        for (name, matrix), (_, one) in zip(
            first.encoder.conformer_layers[layer].named_parameters(), first.encoder.conformer_layers[layer - 1].named_parameters()
        ):
            if name.endswith("weight") and matrix.dim() > 1:
                matrix.data = one.data
    assert error < 0.7 * (outputs(first) - outputs(dense)).norm() / outputs(dense).norm()


def test_full_rank_loads_a_dense_state_dict_exactly():
    dense, shared = conformer(), conformer(seed=2, **{**SHARED, "encoder_residual_rank": 32})
    shared.load_state_dict(dense.state_dict())
    torch.testing.assert_close(outputs(shared), outputs(dense), rtol=0, atol=1e-4)


def test_state_dict_with_another_group_size_is_converted():
    source, model = conformer(**SHARED), conformer(seed=2, encoder_group_size=3, encoder_residual_rank=32)
    model.load_state_dict(source.state_dict())
    torch.testing.assert_close(outputs(model), outputs(source), rtol=0, atol=1e-4)


def test_state_dict_of_the_same_form_is_loaded_unchanged():
    source, model = conformer(**SHARED), conformer(seed=2, **SHARED)
    model.load_state_dict(source.state_dict())
    assert same_weights(source.state_dict(), model.state_dict())


@pytest.mark.parametrize("form", [SHARED, DENSE, {**SHARED, "encoder_group_size": 3, "encoder_residual_rank": 32}])
def test_model_starts_from_a_shared_encoder(tmp_path, form):
    """Bit for bit in the same form, by conversion in another."""
    source = conformer(**SHARED)
    torch.save(stripped({"model": source.state_dict(), "cfg": {"model": {}}}), tmp_path / "asr.pt")
    model = conformer(seed=2, load_pretrained_encoder_from=str(tmp_path / "asr.pt"), **form)
    if form is SHARED:
        assert same_weights(source.encoder.state_dict(), model.encoder.state_dict())
    torch.testing.assert_close(outputs(model), outputs(source), rtol=0, atol=1e-4)


def test_missing_pretrained_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="--load-pretrained-encoder-from .*asr.pt does not exist"):
        conformer(load_pretrained_encoder_from=str(tmp_path / "asr.pt"), **SHARED)


def test_difference_of_forms_is_described():
    states = [conformer(**options).state_dict() for options in ({}, SHARED, {**SHARED, "encoder_group_size": 3})]
    assert form_difference(states[1], states[1]) is None
    assert form_difference(states[0], states[1]) == "it is dense, this model shares encoder.* in groups 0,0,1,1,2,2"
    assert (
        form_difference(states[2], states[1])
        == "it shares encoder.* in groups 0,0,0,1,1,1, this model shares encoder.* in groups 0,0,1,1,2,2"
    )
    other_ranks = conformer(**{**SHARED, "encoder_residual_rank": 4}).state_dict()
    assert form_difference(other_ranks, states[1]) == "its residual ranks or diagonals differ from this model's"
