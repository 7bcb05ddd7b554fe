"""Decoders with shared layers: `--decoder-group-size` and related flags."""

import copy

import pytest
import torch
from conftest import same_weights, tiny_flags, tiny_model
from fairseq.data import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from fairseq.sequence_generator import SequenceGenerator

from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.errors import InputError
from residual_st.fairseq.conversion import expand
from residual_st.fairseq.criterions.label_smoothed_cross_entropy_with_residual import energies_by_kind
from residual_st.fairseq.description import describe
from residual_st.fairseq.layers.decoder_layer import ResidualTransformerDecoderLayer
from residual_st.sharing import ResidualLinear, matrices
from residual_st.stacks import stack_of

SHARED = {"decoder_layers": 6, "decoder_group_size": 3, "decoder_residual_rank": 2, "decoder_residual_diagonal": True}
MODES = ("compact", "fast")
PAD = 1


def trained(**options):
    """A model with random parameters, in evaluation mode."""
    model = tiny_model(**{**SHARED, **options}).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def stock_of(model, **options):
    """The equivalent stock model."""
    dense, stock = copy.deepcopy(model), tiny_model("s2t_transformer_s", **{"decoder_layers": 6, **options}).eval()
    expand(dense)
    stock.load_state_dict(dense.state_dict())
    return stock


def prepared(model, mode):
    model = copy.deepcopy(model)
    model.encoder.inference_mode = model.decoder.inference_mode = mode
    model.prepare_for_inference_(FairseqConfig())
    return model


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_without_a_source_the_attention_to_it_is_left_out(mode):
    """As in the stock decoder; a language model's layers do not have it."""
    model, words = trained(), torch.tensor([[2, 5, 6, 7], [2, 8, 9, PAD]])
    expected = stock_of(model).decoder(words)[0]
    torch.testing.assert_close(prepared(model, mode).decoder(words)[0], expected, rtol=0, atol=1e-5)
    stock = TransformerDecoderLayerBase(TransformerConfig.from_namespace(tiny_flags()), no_encoder_attn=True).eval()
    layer, states = copy.deepcopy(stock), torch.randn(4, 2, stock.embed_dim)
    layer.__class__ = ResidualTransformerDecoderLayer
    if mode == "fast":
        layer.compose_()
    torch.testing.assert_close(layer(states)[0], stock(states)[0], rtol=0, atol=1e-5)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    words = torch.tensor([[2, 5, 6, 7, 8], [2, 5, 6, PAD, PAD], [2, 4, PAD, PAD, PAD]])
    return {"src_tokens": torch.randn(3, 60, 80), "src_lengths": torch.tensor([60, 41, 20]), "prev_output_tokens": words}


def test_default_is_the_stock_decoder():
    stock = tiny_model("s2t_transformer_s", decoder_layers=6).decoder
    residual = tiny_model(decoder_layers=6, encoder_group_size=1, encoder_residual_rank=0, encoder_residual_diagonal=False).decoder
    assert same_weights(stock.state_dict(), residual.state_dict())
    assert type(stock.layers[0]) is type(residual.layers[0])


@pytest.mark.parametrize("options", [{}, {"decoder_normalize_before": False}, {"activation_fn": "gelu"}], ids=str)
def test_outputs_and_gradients_equal_those_of_the_stock_decoder(batch, options):
    model = trained(**options)
    stock = stock_of(model, **options)
    real = batch["prev_output_tokens"] != PAD
    seed = torch.randn(3, 5, 20) * real[..., None]
    gradients = []
    for each in (model, stock):
        logits = each(**batch)[0]
        (logits * seed).sum().backward()
        gradients.append([logits[real], *(getattr(each.decoder.layers[2], norm).weight.grad for norm in ("final_layer_norm",))])
        gradients[-1] += [each.encoder.subsample.conv_layers[0].weight.grad, each.decoder.embed_tokens.weight.grad]
    for gradient, expected in zip(*gradients):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


def test_every_term_has_a_gradient_and_an_effect(batch):
    """U, A, B and d of all ten matrices of each layer."""
    model = trained()
    model(**batch)[0].square().sum().backward()
    linears = [linear for layer in model.decoder.layers for _, linear in matrices(layer)]
    assert len(linears) == 60
    assert all(isinstance(linear, ResidualLinear) for linear in linears)
    assert all(term.grad.abs().max() > 0 for linear in linears for term in linear.terms)
    assert len([name for name in model.state_dict() if name.startswith("decoder.shared_weights.")]) == 2 * 10 + 1


def test_residual_branches_start_at_zero():
    decoder = tiny_model(fresh=True, **SHARED).decoder
    ends = {name: owner[name].any().item() for owner in decoder.shared_weights.values() for name in owner}
    assert {name for name, drawn in ends.items() if not drawn} == {"self_attn_out_proj", "encoder_attn_out_proj", "fc2"}


@pytest.mark.parametrize("mode", [None, *MODES])
def test_incremental_decoding_equals_decoding_at_once(batch, mode):
    """Also if rows of the cache are reordered, as hypotheses in beam search are."""
    model = trained()
    words = torch.tensor([[2, 5, 6, 7, 8], [2, 9, 6, 4, 4], [2, 4, 5, 5, 6]])
    with torch.no_grad():
        encoded = model.encoder(batch["src_tokens"][:2], batch["src_lengths"][:2])
        encoded = model.encoder.reorder_encoder_out(encoded, torch.tensor([1, 1, 1]))
        expected = model.decoder(words, encoded)[0]
        decoder = (model if mode is None else prepared(model, mode)).decoder
        state, order = {}, torch.arange(3)
        for step in range(5):
            if step == 2:
                turn = torch.tensor([2, 0, 1])
                order, words = order[turn], words[turn]
                encoded = model.encoder.reorder_encoder_out(encoded, turn)
                decoder.reorder_incremental_state_scripting(state, turn)
            logits = decoder(words[:, : step + 1], encoded, incremental_state=state)[0]
            torch.testing.assert_close(logits[:, 0], expected[order, step], rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_beam_search_equals_that_of_the_stock_model(batch, mode):
    dictionary = Dictionary()
    for index in range(16):
        dictionary.add_symbol(str(index))
    model = trained()

    def hypotheses(each):
        generator = SequenceGenerator([each], dictionary, beam_size=4, max_len_b=12)
        sample = {"net_input": {name: batch[name] for name in ("src_tokens", "src_lengths")}}
        return [[(hypo["tokens"].tolist(), hypo["score"].item()) for hypo in best] for best in generator.generate([each], sample)]

    for actual, expected in zip(hypotheses(prepared(model, mode)), hypotheses(stock_of(model))):
        assert [tokens for tokens, _ in actual] == [tokens for tokens, _ in expected]
        assert [score for _, score in actual] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_fast_mode_has_the_matrices_of_a_dense_decoder():
    fast = prepared(trained(), "fast").decoder
    assert not any(isinstance(module, ResidualLinear) for module in fast.modules())
    stock = tiny_model("s2t_transformer_s", decoder_layers=6).decoder
    assert sum(map(torch.numel, fast.parameters())) == sum(map(torch.numel, stock.parameters()))


def test_dropout_is_applied_in_training(batch):
    model = trained(dropout=0.5).train()
    states = model.encoder(batch["src_tokens"], batch["src_lengths"])
    first, second = (model.decoder(batch["prev_output_tokens"], states)[0] for _ in range(2))
    assert not torch.allclose(first, second)


def test_full_rank_compression_keeps_the_outputs(batch):
    """Alignment permutes heads and units, and factorization is weighted by calibration data."""
    model = tiny_model("s2t_transformer_s", decoder_layers=6).eval()
    real = batch["prev_output_tokens"] != PAD
    before = model(**batch)[0][real]

    def loss(each, batch):
        return -each(**batch)[0].log_softmax(-1)[real][:, 5].sum()

    result = compress(model, CompressionConfig(rank=32), stack=stack_of(model, "decoder"), calibration=Calibration([batch], loss))
    assert len(model.decoder.shared_weights) == 2
    assert max(error for row in result.errors for error in row.values()) < 1e-4
    torch.testing.assert_close(model(**batch)[0][real], before, rtol=1e-3, atol=1e-3)


def test_calibration_ignores_padding(batch):
    """Including that of encoder states, which has another mask: single utterances have the same moments."""
    from residual_st.compression.moments import gather

    model = tiny_model("s2t_transformer_s", decoder_layers=2, conv_kernel_sizes="1,1").eval().double()
    stack = stack_of(model, "decoder")
    batch["src_tokens"] = batch["src_tokens"].double()

    def loss(each, batch):
        return each(**batch)[0].log_softmax(-1)[batch["prev_output_tokens"] != PAD][:, 5].sum()

    singles = []
    for source, length, words in zip(*batch.values()):
        words = words[words != PAD][None]
        singles.append({"src_tokens": source[None, :length], "src_lengths": length[None], "prev_output_tokens": words})
    together, apart = (gather(model, stack, Calibration(batches, loss)) for batches in ([batch], singles))
    for actual, expected in zip(together, apart):
        for name in actual:
            assert actual[name].count == expected[name].count
            torch.testing.assert_close(actual[name].input_covariance, expected[name].input_covariance)
            torch.testing.assert_close(actual[name].gradient_squares, expected[name].gradient_squares)
    assert together[0]["fc1"].count == 10
    assert together[0]["encoder_attn.k_proj"].count == 15 + 11 + 5


def test_refinement_reduces_the_output_error(batch):
    model = tiny_model("s2t_transformer_s", decoder_layers=6).eval()
    expected = model(**batch)[0].detach()
    real = batch["prev_output_tokens"] != PAD
    distances = []
    for updates in (0, 40):
        student = copy.deepcopy(model)
        calibration = Calibration(
            [batch], lambda each, batch: each(**batch)[0][real].square().sum(), lambda each, batch: each(**batch)
        )
        compress(
            student, CompressionConfig(rank=2, refine_updates=updates), stack=stack_of(student, "decoder"), calibration=calibration
        )
        distances.append((student(**batch)[0] - expected)[real].norm().item())
    assert distances[1] < 0.7 * distances[0]


@pytest.mark.parametrize("arch", ["s2t_transformer_s", "s2t_residual_transformer_s"])
def test_decoder_starts_from_a_pretrained_one(tmp_path, arch):
    """A dense decoder is compressed while it is loaded."""
    options = SHARED if arch != "s2t_transformer_s" else {"decoder_layers": 6}
    source = tiny_model(arch, seed=2, **options)
    torch.save({"model": source.state_dict()}, tmp_path / "a.pt")
    model = tiny_model(seed=3, load_pretrained_decoder_from=str(tmp_path / "a.pt"), **SHARED)
    if arch == "s2t_transformer_s":
        compress(source, CompressionConfig(rank=2), stack=stack_of(source, "decoder"))
    assert same_weights(source.decoder.state_dict(), model.decoder.state_dict())


def test_pretrained_decoder_with_another_plan_is_refused(tmp_path):
    torch.save({"model": tiny_model(**SHARED).state_dict()}, tmp_path / "a.pt")
    message = "--load-pretrained-decoder-from .* it shares its decoder layers in groups 0,0,0,1,1,1, this model has a dense decoder"
    with pytest.raises(InputError, match=message):
        tiny_model(decoder_layers=6, load_pretrained_decoder_from=str(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_group_size": 7}, "group size 7 does not fit a stack of 6 layers"),
        ({"decoder_residual_rank": 33}, "rank 33 .* it must be from 0 to 32"),
        ({"decoder_inference_mode": "quick"}, "decoder_inference_mode 'quick' is not known; it must be one of compact, fast"),
    ],
)
def test_invalid_flags_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny_model(**{**SHARED, **options})


def test_inspect_reports_the_decoder():
    model = trained()
    figures = describe(model, tiny_flags(**SHARED))
    assert figures["decoder_groups"] == [0, 0, 0, 1, 1, 1]
    kept = {id(term): term.numel() for layer in model.decoder.layers for _, linear in matrices(layer) for term in linear.terms}
    assert figures["decoder_matrix_parameters"] == sum(kept.values())
    assert sum(part["parameters"] for part in figures["parts"].values()) == sum(map(torch.numel, model.parameters()))
    kinds = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    assert sorted(energies_by_kind(model)) == sorted([*kinds, *(f"decoder_{kind}" for kind in kinds)])
