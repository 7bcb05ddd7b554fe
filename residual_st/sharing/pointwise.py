"""Pointwise convolutions, which multiply each position by one matrix like an `nn.Linear`, with channels before time."""

from torch import Tensor, nn

from residual_st.sharing.linear import LowRankLinear, ResidualLinear


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a convolution over time with kernel 1 and without groups, that is a matrix.

    Conformers have two per layer, 7 to 12 % of its weights.
    """
    return (
        isinstance(module, nn.Conv1d)
        and module.kernel_size == module.stride == module.dilation == (1,)
        and module.padding in ((0,), "valid", "same")
        and module.groups == 1
    )


def channels_last(matrix: nn.Module, states: Tensor) -> Tensor:
    """Inputs or outputs of a matrix with channels as the last dimension: (…, time, channels)."""
    return states.mT if isinstance(matrix, (nn.Conv1d, ResidualConv1d)) else states


class ResidualConv1d(ResidualLinear):
    """A pointwise convolution whose weight is `U + up @ down + diag(diagonal)`; see ResidualLinear.

    States are (batch, channels, time) or (channels, time).
    """

    @property
    def weight(self) -> Tensor:
        """The composed weight with a convolution's shape (out, in, 1). The terms have two dimensions."""
        return super().weight.unsqueeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in, time) -> (…, out, time)"""
        return super().forward(x.mT).mT

    def to_dense(self) -> nn.Conv1d:
        """An `nn.Conv1d` with the composed weight; the bias is the same parameter."""
        return conv_of(self.weight, self.bias).train(self.training)


class LowRankConv1d(ResidualConv1d, LowRankLinear):
    """A pointwise convolution that shares nothing; see LowRankLinear."""


def conv_of(weight: Tensor, bias: nn.Parameter | None) -> nn.Conv1d:
    """An `nn.Conv1d` with this weight (out, in, 1), detached, and this bias."""
    conv = nn.Conv1d(weight.size(1), weight.size(0), 1, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.detach())
    conv.bias = bias
    return conv
