"""`x Wᵀ + bias` for `W = U + up @ down + diag(diagonal)`, in training and in inference, without storing W.

In all functions, `shared` is U (out, in), or None if nothing is shared; `up` (out, rank) and `down` (rank, in) are both None if the
rank is 0; `diagonal` (min(out, in),) and `bias` (out,) may be None; x is (..., in) and the result (..., out).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class Terms(NamedTuple):
    """The terms of W in the order of the functions' arguments; None for a missing one."""

    shared: Tensor | None
    up: Tensor | None
    down: Tensor | None
    diagonal: Tensor | None


def compose(shared: Tensor | None, up: Tensor | None, down: Tensor | None, diagonal: Tensor | None) -> Tensor:
    """W, shape (out, in)."""
    if shared is None:
        weight = torch.matmul(*both_factors(up, down))
    elif up is None and diagonal is None:
        return shared
    else:
        weight = shared.clone()  # keeps the memory layout, unlike torch.addmm
        if up is not None and down is not None:
            weight.addmm_(up, down)
    if diagonal is not None:
        weight.diagonal().add_(diagonal)
    return weight


def product(
    x: Tensor,
    bias: Tensor | None,
    shared: Tensor | None,
    up: Tensor | None,
    down: Tensor | None,
    diagonal: Tensor | None,
    compose_from: float | None = None,
) -> Tensor:
    """`x Wᵀ + bias`, computed in the fastest way for these shapes.

    With gradients, W is composed again in the backward pass instead of being stored: this costs one more small product and saves
    the memory of a dense encoder's weights. Without gradients, W is composed temporarily from `compose_from` positions on (default:
    `positions_to_compose`), and otherwise not composed.
    """
    terms = Terms(shared, up, down, diagonal)
    if x.dim() != 2:  # torch may split products with more dimensions into one per position
        rows = product(x.reshape(-1, x.size(-1)), bias, *terms, compose_from)
        return rows.view(*x.shape[:-1], rows.size(-1))
    if shared is None:
        return _low_rank(x, bias, *both_factors(up, down), diagonal)
    if torch.is_grad_enabled() and any(term is not None and term.requires_grad for term in (x, bias, *terms)):
        y: Tensor = _Product.apply(x, bias, *terms)  # type: ignore[no-untyped-call] # torch has no types for it
        return y
    if (up is not None or diagonal is not None) and not composing_pays(x, shared, up, compose_from):
        return factor_by_factor(x, bias, shared, up, down, diagonal)
    return linear(x, compose(*terms), bias)


def both_factors(up: Tensor | None, down: Tensor | None) -> tuple[Tensor, Tensor]:
    """`up` and `down` of a matrix that shares nothing, which has both."""
    if up is None or down is None:
        raise ValueError("a matrix without a shared weight must have a rank of at least 1")
    return up, down


def _low_rank(x: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, diagonal: Tensor | None) -> Tensor:
    """`bias + (x downᵀ) upᵀ + diagonal x`, which is faster than a composed weight at every useful rank."""
    y = linear(linear(x, down), up, bias)
    if diagonal is not None:
        length = len(diagonal)
        y[..., :length] += diagonal * x[..., :length]
    return y


def composing_pays(x: Tensor, shared: Tensor, up: Tensor | None, compose_from: float | None = None) -> bool:
    """Whether composing W is faster for x (positions, in) than multiplying x by each term."""
    if x.dtype != shared.dtype or torch.is_autocast_enabled(x.device.type):
        return True  # the other way adds in place, which needs one precision
    if up is None:
        return False
    return len(x) >= (positions_to_compose(*shared.shape) if compose_from is None else compose_from)


def positions_to_compose(out_features: int, in_features: int) -> float:
    """Number of positions from which W is composed. It depends on the shape only, so that results never depend on a machine's load.

    Composing costs passes over W (out * in elements), the other way passes over x and y (in + out elements per position). The ratio
    of their costs depends on the processor, 1 to 6: docs/speed.md has the cost of a fixed ratio, and `tune_products` measures it on
    one machine.
    """
    return 1.5 * out_features * in_features / (out_features + in_features)


def factor_by_factor(
    x: Tensor, bias: Tensor | None, shared: Tensor, up: Tensor | None, down: Tensor | None, diagonal: Tensor | None
) -> Tensor:
    """`bias + diagonal x + x Uᵀ + (x downᵀ) upᵀ` for x (positions, in), each term added in place. Has no gradient."""
    y = _bias_and_diagonal(x, bias, shared.size(0), diagonal)
    y.addmm_(x, shared.t())
    if up is not None and down is not None:
        y.addmm_(linear(x, down), up.t())
    return y


def _bias_and_diagonal(x: Tensor, bias: Tensor | None, out_features: int, diagonal: Tensor | None) -> Tensor:
    """`bias + diag(diagonal) x` for x (positions, in). The diagonal costs nothing: a product with a bias expands it anyway."""
    if bias is None:
        bias = x.new_zeros(out_features)
    length = 0 if diagonal is None else len(diagonal)
    if diagonal is not None and length == out_features:
        return torch.addcmul(bias, x if length == x.size(1) else x[:, :length], diagonal)
    y = x.new_empty(len(x), out_features)
    if diagonal is not None:
        torch.addcmul(bias[:length], x, diagonal, out=y[:, :length])
    y[:, length:] = bias[length:]
    return y


class _Product(torch.autograd.Function):
    """The product of x (positions, in) with W, which is composed in the forward pass and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        shared: Tensor,
        up: Tensor | None,
        down: Tensor | None,
        diagonal: Tensor | None,
    ) -> Tensor:
        device = x.device.type
        ctx.precision = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, shared, up, down, diagonal)
        return linear(x, compose(shared, up, down, diagonal), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, shared, up, down, diagonal = ctx.saved_tensors
        x_needs_it, bias_needs_it, *terms_need_it = ctx.needs_input_grad
        x_gradient = bias_gradient = shared_gradient = up_gradient = down_gradient = diagonal_gradient = None
        with torch.autocast(*ctx.precision):
            if x_needs_it:
                x_gradient = y_gradient @ compose(shared, up, down, diagonal)
            if bias_needs_it:
                bias_gradient = y_gradient.sum(0)
            if any(terms_need_it):
                gradient = y_gradient.T @ x  # gradient of W, and so of U
                shared_gradient = gradient if terms_need_it[0] else None
                up_gradient = gradient @ down.T if terms_need_it[1] else None
                down_gradient = up.T @ gradient if terms_need_it[2] else None
                # copied, because autograd may add other layers' gradients to U's in place
                diagonal_gradient = gradient.diagonal().clone() if terms_need_it[3] else None
        return x_gradient, bias_gradient, shared_gradient, up_gradient, down_gradient, diagonal_gradient


def transpose_storage_(module: nn.Module) -> None:
    """Store every matrix of a module's parameters in column-major order, in place; shapes and values are unchanged.

    For few positions, a product is limited by memory bandwidth, and on a CPU it takes 0.6 to 0.9 of the time in this layout. From
    about 500 positions on there is no difference.
    """
    for parameter in module.parameters():
        if parameter.dim() == 2 and parameter.device.type == "cpu":
            parameter.data = parameter.data.t().contiguous().t()
