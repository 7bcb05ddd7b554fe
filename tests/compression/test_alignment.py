from functools import partial

import pytest
import torch
from conftest import tiny_model

from residual_st.compression.alignment import align_group, align_to
from residual_st.compression.basis import Reordering, Rotation, composition
from residual_st.compression.factorization import mean
from residual_st.compression.layer_weights import MatrixWeights, Metric, damped, read_layer, write_layer
from residual_st.sharing import matrices
from residual_st.stacks import stack_of

DENSE = "s2t_transformer_s"


def symmetries(layer):
    return stack_of(torch.nn.ModuleList([layer])).symmetries


def scrambled(layer, seed):
    """Equivalent weights: heads and hidden units are permuted, and rotated where the function allows it."""
    generator = torch.Generator().manual_seed(seed)
    heads, width = layer.self_attn.num_heads, layer.fc1.in_features
    size = width // heads
    weights = read_layer(layer)

    def rotation(order):
        blocks = torch.zeros(heads, size, heads, size, dtype=torch.float64)
        for place, head in enumerate(order):
            blocks[place, :, head] = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
        return blocks.reshape(width, width)

    order = torch.randperm(heads, generator=generator)
    query_key, value = rotation(order), rotation(order)
    for name in ("q_proj", "k_proj"):
        _transform_outputs(weights[f"self_attn.{name}"], query_key)
    _transform_outputs(weights["self_attn.v_proj"], value)
    weights["self_attn.out_proj"].exact = weights["self_attn.out_proj"].weight @ value.T
    units = torch.eye(layer.fc1.out_features, dtype=torch.float64)[torch.randperm(layer.fc1.out_features, generator=generator)]
    scale = torch.rand(layer.fc1.out_features, dtype=torch.float64, generator=generator) + 0.5
    _transform_outputs(weights["fc1"], scale[:, None] * units)
    weights["fc2"].exact = weights["fc2"].weight @ units.T / scale
    return weights


def _transform_outputs(matrix: MatrixWeights, transformation):
    matrix.exact, matrix.bias = transformation @ matrix.weight, transformation @ matrix.bias


@pytest.fixture
def layers():
    model = tiny_model(DENSE, encoder_layers=3)
    with torch.no_grad():
        for parameter in model.encoder.transformer_layers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # including biases
    return model.encoder.transformer_layers.eval()


def with_metrics(weights, seed):
    def moments(size):
        draw = torch.randn(2 * size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return damped(draw.T @ draw / size)

    for matrix in weights.values():
        rows, columns = matrix.weight.shape
        matrix.trained_metric = partial(Metric, moments(columns), moments(rows))
    return weights


@pytest.mark.parametrize("calibrated", [False, True])
def test_alignment_keeps_the_outputs_of_layers(layers, calibrated):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 2, 32, generator=generator)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    before = [layer(x, padding) for layer in layers]
    weights = [read_layer(layer) for layer in layers]
    if calibrated:
        weights = [with_metrics(layer, seed) for seed, layer in enumerate(weights)]
    aligned = align_group(weights, symmetries(layers[0]))
    for layer, its_weights, output in zip(layers, aligned, before):
        moved = max((its_weights[name].weight - linear.weight).abs().max().item() for name, linear in matrices(layer))
        write_layer(layer, its_weights)
        torch.testing.assert_close(layer(x, padding)[~padding.T], output[~padding.T], rtol=1e-5, atol=2e-6)
    assert moved > 0.01


def test_permuted_copy_of_a_layer_is_aligned_to_it(layers):
    original, renamings = read_layer(layers[0]), symmetries(layers[0])
    aligned = align_group([original, scrambled(layers[0], 5)], renamings)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        torch.testing.assert_close(aligned[1][name].weight, aligned[0][name].weight, rtol=0, atol=1e-9)
        if aligned[0][name].bias is not None:
            torch.testing.assert_close(aligned[1][name].bias, aligned[0][name].bias, rtol=0, atol=1e-9)


@pytest.mark.parametrize("calibrated", [False, True])
def test_alignment_reduces_the_distance_between_layers(layers, calibrated):
    weights = [read_layer(layer) for layer in layers]
    if calibrated:
        weights = [with_metrics(layer, 1) for layer in weights]

    def spread(group):
        total = 0.0
        for name in group[0]:
            shared = mean([layer[name].weight for layer in group], [layer[name].metric for layer in group])
            total += sum(layer[name].metric.squared_norm(layer[name].weight - shared) for layer in group)
        return total

    assert spread(align_group(weights, symmetries(layers[0]))) < 0.97 * spread(weights)


def test_metrics_are_transformed_with_the_units(layers):
    """The weighted norm of a matrix does not depend on the order of its units."""
    weights = with_metrics(read_layer(layers[1]), 3)
    target = {name: matrix.weight for name, matrix in read_layer(layers[0]).items()}
    for symmetry in symmetries(layers[0]):
        renamed = align_to(weights, target, [symmetry])
        assert any(not torch.equal(renamed[name].weight, weights[name].weight) for name in weights)
        for name, matrix in weights.items():
            size = matrix.metric.squared_norm(matrix.weight)
            assert renamed[name].metric.squared_norm(renamed[name].weight) == pytest.approx(size)


def test_layers_of_unknown_classes_have_no_symmetries():
    assert not symmetries(torch.nn.Sequential(torch.nn.Linear(4, 4)))


def test_units_are_scaled_only_under_relu():
    renamings = symmetries(tiny_model(DENSE, activation_fn="gelu").encoder.transformer_layers[0])
    assert not renamings[1].scalable
    assert symmetries(tiny_model(DENSE).encoder.transformer_layers[0])[1].scalable


def test_transformations_compose():
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    weight, moments = drawn(6, 6), drawn(6, 6)
    rotations = [Rotation(torch.linalg.qr(drawn(6, 6))[0]) for _ in range(2)]
    orders = [Reordering(torch.randperm(6, generator=generator), drawn(6).exp()) for _ in range(2)]
    for before, then in (rotations, orders):
        both = composition(then, before)
        torch.testing.assert_close(both.rows(weight), then.rows(before.rows(weight)))
        torch.testing.assert_close(both.columns(weight), then.columns(before.columns(weight)))
        torch.testing.assert_close(both.vectors(moments), then.vectors(before.vectors(moments)))
        torch.testing.assert_close(both.covectors(moments), then.covectors(before.covectors(moments)))
