"""Refinement targets are computed once by the dense model, and stored accurately enough for refinement."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import kl_div

from residual_st.compression import Calibration
from residual_st.compression.refinement import refine
from residual_st.compression.targets import LIKELIEST, LayerTarget, Targets, WordsTarget
from residual_st.stacks import LayerStack

WIDTH = 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(2))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def stack(self):
        return LayerStack(self.layers, self)


def test_dense_model_runs_once_per_batch():
    dense, given = Model(), [torch.randn(2, 10, WIDTH) for _ in range(4)]
    student = copy.deepcopy(dense)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    calibration = Calibration(given, lambda model, x: model(x).square().sum(), lambda model, x: model(x))
    refine((dense, dense.stack), (student, student.stack), nn.ModuleList(), calibration, 30)
    assert dense.runs == len(calibration.parts[0]) == 3


def test_stored_targets_are_read_back_accurately(tmp_path):
    dense, x = Model(), torch.randn(2, 10, WIDTH)
    calibration = Calibration([x], lambda model, x: 0, predict=lambda model, x: model(x).flatten(0, 1))
    targets = Targets((dense, dense.stack), calibration, tmp_path)
    for _ in range(2):
        layers, words = targets.of(0, x)
        assert [layer.error(output.flatten(0, 1)).item() for layer, output in zip(layers, _outputs(dense, x))] == pytest.approx(
            [0, 0], abs=1e-6
        )
        assert words.divergence(dense(x).flatten(0, 1)).item() == pytest.approx(0, abs=1e-6)
    assert dense.runs == 3


def _outputs(model, x):
    for layer in model.layers:
        x = layer(x)
        yield x


def test_channels_are_weighted_equally():
    """Errors are measured in standard deviations of a channel, whatever its mean and scale."""
    output, noise = torch.randn(500, 3), 0.1 * torch.randn(500, 3)
    scale, shift = torch.tensor([0.5, 1.0, 8.0]), torch.tensor([5.0, -200.0, 3000.0])
    expected = LayerTarget.of(output).error(output + noise).item()
    actual = LayerTarget.of(scale * output + shift).error(scale * (output + noise) + shift).item()
    assert actual == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("vocabulary", [LIKELIEST - 1, LIKELIEST, 5000])
def test_divergence_over_the_likeliest_words_approximates_that_over_all(vocabulary):
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(20, vocabulary, generator=generator) * 6  # as peaked as those of a trained model
    student = (dense + torch.randn(20, vocabulary, generator=generator)).requires_grad_()
    actual = WordsTarget.of(dense).divergence(student)
    expected = kl_div(student.log_softmax(-1), dense.log_softmax(-1), reduction="batchmean", log_target=True)
    (gradient,), (true_gradient,) = (torch.autograd.grad(loss, student) for loss in (actual, expected))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4 if vocabulary <= LIKELIEST else 0.05)
    assert torch.cosine_similarity(gradient.flatten(), true_gradient.flatten(), dim=0) > (
        0.9999 if vocabulary <= LIKELIEST else 0.9
    )
