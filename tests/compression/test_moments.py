import pytest
import torch
from conftest import tiny_model
from torch import nn

from residual_st.compression.moments import Calibration, drawn_information, gather
from residual_st.compression.sums import SquareSum
from residual_st.errors import InputError
from residual_st.sharing import matrices
from residual_st.stacks import LayerStack, no_padding, stack_of

DENSE = "s2t_transformer_s"


def loss(model, batch):
    return model(**batch)[0].float().log_softmax(-1)[..., 5].sum()


@pytest.fixture
def model():
    return tiny_model(DENSE).eval()


def test_padding_is_ignored(model):
    """A batch of two utterances, the shorter one padded, has the moments of the two without padding."""
    layers = model.encoder.transformer_layers
    x, padding = torch.randn(9, 2, 32), torch.tensor([[False] * 9, [False] * 5 + [True] * 4])

    def run(layers, batch):
        x, padding = batch
        for layer in layers:
            x = layer(x, padding)
        return (x if padding is None else x[~padding.T]).pow(3).sum()

    apart = [(x[:, :1].clone(), None), (x[:5, 1:].clone(), None)]
    one, two = (gather(layers, stack_of(layers), Calibration(batches, run)) for batches in ([(x, padding)], apart))
    for its_one, its_two in zip(one, two):
        for name in its_one:
            assert its_one[name].count == its_two[name].count == 14
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                expected = getattr(its_two[name], sums)
                tolerance = 1e-4 * expected.abs().max().item()
                torch.testing.assert_close(getattr(its_one[name], sums), expected, rtol=1e-4, atol=tolerance)


def test_output_gradients_sum_to_the_bias_gradients(model, batch):
    """A bias's gradient is the sum of its output gradients, so every matrix is recorded, including scaled queries."""
    layers = model.encoder.transformer_layers
    moments = gather(model, stack_of(model), Calibration([batch], loss))
    assert all(moments[0][name].gradient_squares.diagonal().sum() > 0 for name, _ in matrices(layers[0]))
    loss(model, batch).backward()
    for layer, its_moments in zip(layers, moments):
        for name, linear in matrices(layer):
            # Cauchy-Schwarz: |sum of n gradients|² <= n * sum of squares
            bound = its_moments[name].count * its_moments[name].gradient_squares.diagonal().sum()
            assert linear.bias.grad.double().square().sum() <= bound * 1.01 + 1e-12


def test_fisher_information_is_that_of_the_predicted_distribution():
    """Gradients at many positions with equal scores have the covariance `diag(p) - p p^T` and mean 0."""
    p = torch.tensor([0.6, 0.25, 0.1, 0.05])
    scores = p.log().repeat(200_000, 1).requires_grad_()
    (gradients,) = torch.autograd.grad(drawn_information(scores, seed=3), scores)
    torch.testing.assert_close(gradients.T.cov(), torch.diag(p) - torch.outer(p, p), rtol=0, atol=2e-3)
    torch.testing.assert_close(gradients.mean(0), torch.zeros(4), rtol=0, atol=5e-3)


@pytest.mark.parametrize("batches, draws", [(1, 3), (24, 3), (30, 2), (72, 1), (100, 1)])
def test_draws_of_each_batch_average_to_one_fisher_information(batches, draws):
    """The sum does not depend on the number of draws per batch."""
    linear = torch.nn.Linear(2, 4)
    calibration = Calibration(
        [torch.ones(20_000, 2)] * batches, loss=lambda *_: torch.nan, predict=lambda model, batch: model(batch)
    )
    scores = []
    linear.register_forward_hook(lambda *call: scores.append(call[-1]))
    scalars = list(calibration.sensitivities(linear, 0))
    assert len(scalars) == draws
    p = scores[0][0].softmax(-1).detach()
    gradients = (torch.autograd.grad(scalar, scores[0], retain_graph=True)[0] for scalar in scalars)
    total = sum(gradient.T @ gradient for gradient in gradients) / 20_000
    torch.testing.assert_close(total, torch.diag(p) - torch.outer(p, p), rtol=0, atol=1e-2)


def test_labels_are_ignored_if_words_are_predicted(model, batch):
    def predict(model, batch):
        return model(**batch)[0].flatten(0, 1)

    stack = stack_of(model)
    labelled, unlabelled = (
        gather(model, stack, Calibration([batch], labels, predict=predict)) for labels in (loss, lambda *_: torch.nan)
    )
    by_labels = gather(model, stack, Calibration([batch], loss))
    for name, moments in labelled[0].items():
        torch.testing.assert_close(moments.gradient_squares, unlabelled[0][name].gradient_squares, rtol=0, atol=0)
        assert not torch.allclose(moments.gradient_squares, by_labels[0][name].gradient_squares, rtol=0.1)


def test_moments_are_sums_over_positions(model, batch):
    """Twice the data gives twice the weight, so matrices with different numbers of positions are comparable."""
    once, twice = (gather(model, stack_of(model, "decoder"), Calibration(batches, loss)) for batches in ([batch], [batch, batch]))
    for name in once[0]:
        error = torch.randn_like(once[0][name].gradient_squares[:, :1]) * torch.randn_like(once[0][name].input_mean)
        predicted, predicted_twice = (moments[0][name].metric().squared_norm(error) for moments in (once, twice))
        assert predicted_twice == pytest.approx(2 * predicted, rel=1e-3)


def test_moments_of_a_plain_layer():
    torch.manual_seed(1)
    linear = nn.Linear(3, 2)
    layers = nn.ModuleList([nn.Sequential(linear)])
    x = torch.randn(4, 5, 3)
    moments = gather(layers, stack_of(layers), Calibration([x], lambda layers, x: layers[0](x).square().sum()))[0]["0"]
    rows = x.flatten(0, 1).double()
    torch.testing.assert_close(moments.input_covariance, rows.T.cov(correction=0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.input_mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    gradients = 2 * linear(x).detach().flatten(0, 1).double()
    torch.testing.assert_close(moments.gradient_squares, gradients.T @ gradients, rtol=1e-5, atol=1e-5)
    assert linear.weight.grad is None


def test_covariance_is_accurate_for_nearly_constant_inputs():
    """Such as outputs of a pruned matrix, whose bias is 1,000 times larger than their differences."""
    torch.manual_seed(1)
    linear = nn.Linear(8, 2)
    layers = nn.ModuleList([nn.Sequential(linear)])
    x = 1000 + 1e-2 * torch.randn(3, 400, 8)
    moments = gather(layers, stack_of(layers), Calibration(list(x), lambda layers, x: layers[0](x).sum()))[0]["0"]
    torch.testing.assert_close(moments.input_covariance, x.flatten(0, 1).double().T.cov(correction=0), rtol=0.05, atol=5e-6)
    assert torch.linalg.eigvalsh(moments.metric().inputs).min() > 0


def test_queries_keys_and_values_share_one_sum_of_inputs(model, batch):
    """Their input is the same tensor, which is accumulated once."""
    (moments, *_) = gather(model, stack_of(model), Calibration([batch, batch], loss))
    queries = moments["self_attn.q_proj"].inputs
    assert moments["self_attn.k_proj"].inputs is moments["self_attn.v_proj"].inputs is queries
    assert moments["fc1"].inputs is not queries and moments["fc1"].count == queries.count
    values = gather(model, stack_of(model), Calibration([batch], loss))[0]["self_attn.v_proj"]
    torch.testing.assert_close(values.input_covariance, queries.covariance, rtol=1e-4, atol=1e-6)


def test_moments_gathered_for_parts_of_a_stack_are_equal(model, batch, monkeypatch):
    """A stack whose sums do not fit in memory together is processed in parts."""
    stack, calibration = stack_of(model), Calibration([batch, batch], loss)
    together = gather(model, stack, calibration)
    monkeypatch.setattr("residual_st.compression.moments.MOST_BYTES", 1)
    apart = gather(model, stack, calibration)
    assert len(apart) == len(together) == len(stack.layers)
    for its_together, its_apart in zip(together, apart):
        for name, matrix in its_together.items():
            assert its_apart[name].count == matrix.count
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                assert torch.equal(getattr(its_apart[name], sums), getattr(matrix, sums))


class TwoInputs(nn.Module):
    """A layer whose matrices receive the same tensor or different ones."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, states, second_states=None):
        return self.first(states) + self.second(states if second_states is None else second_states)


def test_matrices_share_a_sum_only_if_their_inputs_are_the_same_tensor():
    torch.manual_seed(1)
    layers, first, second = nn.ModuleList([TwoInputs()]), torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    stack = LayerStack(layers, padding=no_padding)

    def moments(*batches):
        return gather(layers, stack, Calibration(batches, lambda layers, batch: layers[0](*batch).square().sum()))[0]

    apart = moments((first, second), (first,))
    torch.testing.assert_close(apart["second"].input_mean, torch.cat([second, first]).mean((0, 1)).double(), rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="second of layer 0 first has the inputs of first of layer 0 and later different ones"):
        moments((first,), (first, second))


@pytest.mark.parametrize("size", [5, 256, 700])
def test_covariance_from_one_triangle_is_exact(size):
    """For sizes that are and are not multiples of the block size, in float32 over many batches."""
    rows = torch.randn(40, 50, size, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, size)
    total = SquareSum(size, rows.device)
    for batch in rows:
        total.add(batch)
    expected = rows.flatten(0, 1).double().T @ rows.flatten(0, 1).double()
    scale = expected.diagonal().sqrt()
    assert ((total.total() - expected) / torch.outer(scale, scale)).abs().max() < len(rows) * 6e-8
    assert torch.equal(total.total(), total.total().T)
