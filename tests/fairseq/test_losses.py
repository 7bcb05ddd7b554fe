import pytest
import torch

from residual_st.fairseq.distillation.losses import state_difference, word_divergence
from residual_st.stacks import layer_map


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 5, 11, generator=generator) for _ in range(2)]


@pytest.fixture
def counted():
    return torch.tensor([[True] * 5, [True] * 3 + [False] * 2])


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_word_divergence_is_the_kl_divergence_at_a_temperature(pair, counted, temperature):
    student, teacher = pair
    expected = 0.0
    for row, column in counted.nonzero().tolist():
        p = torch.distributions.Categorical(logits=teacher[row, column] / temperature)
        q = torch.distributions.Categorical(logits=student[row, column] / temperature)
        expected += temperature**2 * torch.distributions.kl_divergence(p, q)
    actual = word_divergence(student, teacher.log_softmax(-1), None, counted, temperature)
    torch.testing.assert_close(actual, expected)
    assert word_divergence(teacher, teacher.log_softmax(-1), None, counted, temperature).abs() < 1e-5


@pytest.mark.parametrize(("temperature", "close"), [(1.0, 0.15), (2.5, 0.3)])
def test_cached_words_approximate_the_teacher_and_all_words_equal_it(pair, counted, temperature, close):
    student, teacher = pair
    log_probs = (3 * teacher).log_softmax(-1)
    whole = word_divergence(student, log_probs, None, counted, temperature)
    for k, tolerance in ((11, 1e-5), (8, close)):
        best = log_probs.topk(k)
        part = word_divergence(student, best.values, best.indices, counted, temperature)
        torch.testing.assert_close(part, whole, rtol=tolerance, atol=1e-5)


def test_gradient_of_the_divergence_points_to_the_teacher(pair, counted):
    student, teacher = pair
    student = student.clone().requires_grad_()
    before = word_divergence(student, teacher.log_softmax(-1), None, counted)
    before.backward()
    assert (student.grad[~counted] == 0).all()
    after = word_divergence(student - 0.5 * student.grad, teacher.log_softmax(-1), None, counted)
    assert after < 0.9 * before


def test_state_difference_is_relative_and_ignores_padding():
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(6, 2, 8, generator=generator) + 5  # the mean over positions does not count as signal
    student = teacher + 0.5 * torch.randn(6, 2, 8, generator=generator)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    real = torch.cat([teacher[:, 0], teacher[:4, 1]])
    variance = (real - real.mean(0)).square().sum()
    expected = (torch.cat([student[:, 0], student[:4, 1]]) - real).square().sum() / variance
    torch.testing.assert_close(state_difference(student, teacher, padding), expected)
    disturbed = student.clone()
    disturbed[4:, 1] = 100
    torch.testing.assert_close(state_difference(disturbed, teacher, padding), expected)
    assert state_difference(teacher, teacher, None) == 0


def test_layers_are_mapped_by_depth_to_the_last_of_a_group():
    assert layer_map(4, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert layer_map(4, 12) == [(0, 2), (1, 5), (2, 8), (3, 11)]
    assert layer_map(12, 12, (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)) == [(2, 2), (5, 5), (8, 8), (11, 11)]
    assert layer_map(4, 12, (0, 0, 1, 1)) == [(1, 5), (3, 11)]
    assert layer_map(6, 12, (0, 1, 2, 0, 1, 2)) == [(3, 7), (4, 9), (5, 11)]
    assert layer_map(12, 2)[0] == (0, 0)
    assert layer_map(12, 2)[-1] == (11, 1)
