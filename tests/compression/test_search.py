import pytest
import torch
from torch import nn

from residual_st.compression import Calibration, CompressionConfig, compress, compress_within
from residual_st.compression import refinement as refinement_module
from residual_st.errors import InputError
from residual_st.sharing import Alone, LowRankLinear, ResidualLinear, matrices

WIDTH, INNER = 16, 32


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x):
        return x + self.narrow(self.wide(self.norm(x)).relu())


def stack_of_blocks(rank: int, alike: bool) -> nn.ModuleList:
    """Four layers of low-rank matrices, which are similar or unrelated."""
    generator = torch.Generator().manual_seed(1)
    layers = nn.ModuleList(Block() for _ in range(4))
    common = {}
    with torch.no_grad():
        for layer in layers:
            for name, linear in matrices(layer):
                rows, columns = linear.weight.shape
                own = torch.randn(rows, rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
                common.setdefault(name, torch.randn(rows, columns, generator=generator))
                linear.weight.copy_((common[name] + 0.02 * own if alike else own) / columns**0.5)
                linear.bias.zero_()
    return layers.eval()


def run(layers, x):
    for layer in layers:
        x = layer(x)
    return x


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(8, 40, WIDTH, generator=generator) for _ in range(8)]


def calibration_of(layers, batches) -> Calibration:
    with torch.no_grad():
        expected = {id(batch): run(layers, batch) for batch in batches}
    return Calibration(batches, lambda model, batch: 1 + (run(model, batch) - expected[id(batch)]).square().sum(), run)


def test_unrelated_layers_do_not_share(batches):
    layers = stack_of_blocks(rank=2, alike=False)
    result = compress(layers, CompressionConfig(weight_fraction=0.5, diagonal=False), calibration=calibration_of(layers, batches))
    assert all(isinstance(rank, Alone) for row in result.form.ranks.rows for rank in row)
    assert not any(len(owner) for owner in result.shared_weights.values())
    assert result.parameters_after <= 0.5 * result.parameters_before
    assert max(error for row in result.errors for error in row.values()) < 1e-3


def test_similar_layers_share(batches):
    layers = stack_of_blocks(rank=2, alike=True)
    compress(layers, CompressionConfig(weight_fraction=0.5, diagonal=False), calibration=calibration_of(layers, batches))
    linears = [linear for layer in layers for _, linear in matrices(layer)]
    assert all(isinstance(linear, ResidualLinear) and not isinstance(linear, LowRankLinear) for linear in linears)


def test_correction_compensates_errors_of_earlier_layers(batches):
    """For the same form and moments, with `encode`, which correction needs, and without."""
    losses = []
    for encode in (None, run):
        layers = stack_of_blocks(rank=8, alike=False)
        calibration = calibration_of(layers, batches)
        variant = Calibration(batches, calibration.loss, encode)
        compress(layers, CompressionConfig(rank="=4", diagonal=False), calibration=variant)
        losses.append(sum(calibration.loss(layers, batch).item() for batch in batches[-2:]))
    assert losses[1] < 0.9 * losses[0]


def test_correction_uses_additional_batches(batches):
    """For the same moments, judged on batches that none of the runs has used."""
    generator = torch.Generator().manual_seed(3)
    few = [batch[:1, :20] for batch in batches]
    more = [torch.randn(8, 40, WIDTH, generator=generator) for _ in range(8)]
    unseen = torch.randn(64, 40, WIDTH, generator=generator)
    losses = []
    for further in ([], more):
        layers = stack_of_blocks(rank=8, alike=False)
        calibration = calibration_of(layers, [*few, *more, unseen])
        compress(
            layers, CompressionConfig(rank="=4", diagonal=False), calibration=Calibration(few, calibration.loss, run, more=further)
        )
        losses.append(calibration.loss(layers, unseen).item())
    assert losses[1] < 0.9 * losses[0]


def test_refinement_that_increases_the_loss_is_undone(batches, monkeypatch):
    states = []
    for updates in (0, 4):
        layers = stack_of_blocks(rank=8, alike=False)
        monkeypatch.setattr(refinement_module, "LEARNING_RATES", (50.0,))
        compress(layers, CompressionConfig(rank=2, refine_updates=updates), calibration=calibration_of(layers, batches))
        states.append(layers.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@pytest.mark.parametrize("max_loss", [0.05, 0.5])
def test_smallest_form_within_a_loss_is_chosen(batches, max_loss):
    layers = stack_of_blocks(rank=4, alike=False)
    calibration = calibration_of(layers, batches)
    dense = calibration.held_out_loss(layers)
    result, probes = compress_within(layers, max_loss, calibration, CompressionConfig(diagonal=False))
    assert calibration.held_out_loss(layers) <= (1 + max_loss) * dense
    fraction = result.parameters_after / result.parameters_before
    assert fraction < 0.97
    assert min(probe.weight_fraction for probe in probes if probe.loss_ratio <= 1 + max_loss) >= fraction
    assert any(probe.loss_ratio > 1 + max_loss for probe in probes)


def test_unreachable_loss_limit_is_refused(batches):
    layers = stack_of_blocks(rank=16, alike=False)
    with pytest.raises(InputError, match=r"the loss rises .* even with 97% of the weights; the limit is 0\.0%"):
        compress_within(layers, 1e-9, calibration_of(layers, batches), CompressionConfig(diagonal=True))
