"""Dropout with fewer random bits than torch's on a CPU.

On a CPU torch draws one float per element, sequentially, which takes several times as long as the matrix product before it. Here 64
random bits are used for four elements.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_LEVELS = 2**16  # dropout rates are rounded to a multiple of 1 / 65536


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero each element with probability `rate` and scale the others by 1 / (1 - rate)."""
    if not rate:
        return x
    return _Dropout.apply(x, rate) if _is_cheap(x, rate) else functional.dropout(x, rate)


def relu_dropout_(x: Tensor, rate: float) -> Tensor:
    """`dropout(relu(x), rate)`, in place; only the result is stored for the backward pass.

    The gradient is changed in place too, so the result must be the input of a matrix product, whose gradient is used nowhere else.
    """
    if not torch.is_grad_enabled() and not rate:
        return x.relu_()
    if not rate or _is_cheap(x, rate):
        return _ReluDropout.apply(x, rate)
    return functional.dropout(functional.relu_(x), rate)


def silu_dropout(x: Tensor, rate: float) -> Tensor:
    """`dropout(silu(x), rate)`; only x and a mask are stored for the backward pass.

    The gradient is changed in place, as in `relu_dropout_`; without gradients x is changed in place too.
    """
    if not torch.is_grad_enabled() and not rate:
        return functional.silu(x, inplace=True)
    if not rate or _is_cheap(x, rate):
        return _SiluDropout.apply(x, rate)
    return functional.dropout(functional.silu(x), rate)


def _is_cheap(x: Tensor, rate: float) -> bool:
    return x.device.type == "cpu" and rate < 1


def _dropped(rate: float) -> int:
    """Number of dropped elements of `_LEVELS`."""
    return round(rate * _LEVELS)


def _scale(rate: float) -> float:
    return _LEVELS / (_LEVELS - _dropped(rate))


def _to_drop(x: Tensor, rate: float) -> Tensor:
    """A random mask of x's shape, True with probability `rate`."""
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[: x.numel()] < _dropped(rate) - _LEVELS // 2).view(x.shape)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rate):
        dropped = _to_drop(x, rate)
        ctx.save_for_backward(dropped)
        ctx.scale = _scale(rate)
        return (x * ctx.scale).masked_fill_(dropped, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (dropped,) = ctx.saved_tensors
        return (gradient * ctx.scale).masked_fill_(dropped, 0), None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rate):
        x.relu_()
        ctx.scale = _scale(rate)
        if rate:
            x.masked_fill_(_to_drop(x, rate), 0).mul_(ctx.scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (y,) = ctx.saved_tensors  # 0 where ReLU or dropout set it to 0
        torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)
        return gradient.mul_(ctx.scale), None


class _SiluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rate):
        y = functional.silu(x)
        ctx.scale, dropped = _scale(rate), None
        if rate:
            dropped = _to_drop(x, rate)
            y.masked_fill_(dropped, 0).mul_(ctx.scale)
        ctx.save_for_backward(x, dropped)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, dropped = ctx.saved_tensors
        if dropped is not None:
            gradient.masked_fill_(dropped, 0).mul_(ctx.scale)
        torch.ops.aten.silu_backward.grad_input(gradient, x, grad_input=gradient)
        return gradient, None
