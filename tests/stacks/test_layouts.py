"""Padding in states of any layout is identified from their shapes, and ambiguous shapes are refused."""

import pytest
import torch
from torch import nn

from residual_st.compression import Calibration, CompressionConfig, compress
from residual_st.compression.moments import gather
from residual_st.errors import InputError
from residual_st.stacks import describe_stack

WIDTH, HEADS = 8, 4


class Layer(nn.Module):
    """Time-first outside and batch-first inside, like ESPnet attention in fairseq's conformer, with a convolution and a matrix
    applied to each head, as in WavLM.
    """

    def __init__(self):
        super().__init__()
        self.outside, self.inside = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.convolution, self.positions = nn.Conv1d(WIDTH, WIDTH, 1), nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH // HEADS, WIDTH // HEADS)

    def forward(self, x, padding_mask=None, positions=None):
        y = self.outside(x).transpose(0, 1)
        y = self.inside(y).tanh() + self.positions(positions).mean(1, keepdim=True)
        y = y + self.convolution(y.mT).mT.tanh()
        heads = y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        return x + self.head(heads).transpose(1, 2).flatten(2).transpose(0, 1).tanh()


def batch_of(*lengths: int, padded: bool = True) -> tuple:
    """States (time, batch, width), their mask and relative positions."""
    time, generator = max(lengths), torch.Generator().manual_seed(sum(lengths))
    mask = torch.tensor([[place >= length for place in range(time)] for length in lengths])
    states = torch.randn(time, len(lengths), WIDTH, generator=generator)
    return states, mask if padded else None, torch.randn(1, 2 * time - 1, WIDTH, generator=generator)


def run(layers, batch):
    states, mask, positions = batch
    for layer in layers:
        states = layer(states, padding_mask=mask, positions=positions)
    return states


def loss(layers, batch):
    states, mask = run(layers, batch), batch[1]
    return (states if mask is None else states[~mask.T]).pow(3).sum()


@pytest.fixture
def layers() -> nn.ModuleList:
    torch.manual_seed(1)
    return nn.ModuleList(Layer() for _ in range(4))


def moments_of(layers, *batches):
    return gather(layers, describe_stack(layers), Calibration(batches, loss))


def assert_equal(actual, expected):
    for actual_sum, expected_sum in zip(actual, expected):
        for name in actual_sum:
            assert actual_sum[name].count == expected_sum[name].count
            for sums in ("input_mean", "input_covariance", "gradient_squares"):
                expected_value = getattr(expected_sum[name], sums)
                torch.testing.assert_close(
                    getattr(actual_sum[name], sums), expected_value, rtol=1e-4, atol=1e-4 * expected_value.abs().max().item()
                )


def test_padding_is_ignored_in_every_layout(layers):
    """A batch of two utterances, the shorter one padded, has the moments of the two without padding."""
    states, mask, positions = batch_of(9, 5)
    apart = [(states[:, :1], None, positions), (states[:5, 1:], None, positions)]
    together, expected = moments_of(layers, (states, mask, positions)), moments_of(layers, *apart)
    assert {name: matrix.count for name, matrix in together[0].items()} == {
        "outside": 14,
        "inside": 14,
        "convolution": 14,
        "head": 14 * HEADS,
        "positions": 17,
    }
    for matrices in (*together, *expected):  # shared by both utterances
        del matrices["positions"]
    assert_equal(together, expected)


def test_positions_may_be_repeated_for_each_utterance(layers):
    states, mask, positions = batch_of(9, 5)
    (moments, *_) = moments_of(layers, (states, mask, positions.expand(2, -1, -1)))
    assert moments["positions"].count == 2 * 17


@pytest.mark.parametrize("unclear", [(5, 5, 5, 4, 2), (9, 5, 5, 2)], ids=["as many utterances as positions", "as many as heads"])
def test_ambiguous_batch_is_counted_after_an_unambiguous_one(layers, unclear):
    clear = batch_of(9, 5, 3)
    assert_equal(moments_of(layers, batch_of(*unclear), clear), moments_of(layers, clear, batch_of(*unclear)))


def test_layout_that_stays_ambiguous_is_refused(layers):
    square = batch_of(3, 2, 3)
    message = r"the inputs of outside of shape \(3, 3, 8\) fit a mask of shape \(3, 3\) in several ways; give a batch in which"
    with pytest.raises(InputError, match=message):
        moments_of(layers, square, square)


def test_mask_without_padding_needs_no_layout(layers):
    assert_equal(moments_of(layers, batch_of(3, 3, 3)), moments_of(layers, batch_of(3, 3, 3, padded=False)))


def test_compression_at_full_rank_is_the_identity(layers):
    """All stages run in all layouts, although the first batch is ambiguous."""
    batches = [batch_of(5, 5, 5, 4, 2), batch_of(9, 5), batch_of(7, 7, 3)]
    before = {id(batch): run(layers, batch).detach() for batch in batches}

    def distance(layers, batch):  # 0 for the dense model, so that refinement cannot go below
        return 1 + (run(layers, batch) - before[id(batch)])[~batch[1].T].square().sum()

    calibration = Calibration(batches, distance, run)
    compress(layers, CompressionConfig(group_size=2, rank=",".join(["8/8/8/8/2"] * 4), refine_updates=4), calibration=calibration)
    for batch in batches:
        torch.testing.assert_close(run(layers, batch), before[id(batch)], rtol=1e-4, atol=1e-4)
