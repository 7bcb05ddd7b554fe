"""`x Wᵀ + bias` for `W = U + up @ down + diag(diagonal)`, in training and in inference, without keeping W.

Everywhere `shared` is U, (out, in), or None where nothing is shared; `up` (out, rank) and `down` (rank, in) are both None where
the rank is 0; `diagonal` (min(out, in),) and `bias` (out,) may be None; x is (..., in) and the result (..., out).
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


def compose(shared: Tensor | None, up: Tensor | None, down: Tensor | None, diagonal: Tensor | None) -> Tensor:
    """W, shape (out, in)."""
    if up is None and diagonal is None:
        return shared
    if shared is None:
        weight = up @ down
    else:
        weight = shared.clone()  # which keeps the layout in memory, as torch.addmm does not
        if up is not None:
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
    """`x Wᵀ + bias`, computed in the cheapest way for these shapes.

    With gradients, W is composed again in the backward pass instead of being kept until then: one small product more, and as
    much memory less as a dense encoder's weights take. Without, W is composed and let go, or never composed: from `compose_from`
    positions on it is composed, by default from `positions_to_compose`.
    """
    terms = (shared, up, down, diagonal)
    if x.dim() != 2:  # torch's own products of more dimensions may be one for each position
        y = product(x.reshape(-1, x.size(-1)), bias, *terms, compose_from)
        return y.view(*x.shape[:-1], y.size(-1))
    if shared is None:
        return _low_rank(x, bias, up, down, diagonal)
    if torch.is_grad_enabled() and any(term is not None and term.requires_grad for term in (x, bias, *terms)):
        return _Product.apply(x, bias, *terms)
    if (up is not None or diagonal is not None) and not composing_pays(x, shared, up, compose_from):
        return factor_by_factor(x, bias, *terms)
    return linear(x, compose(*terms), bias)


def _low_rank(x: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, diagonal: Tensor | None) -> Tensor:
    """`bias + (x downᵀ) upᵀ + diagonal x`, which takes less than a composed weight at every rank that is worth having."""
    y = linear(linear(x, down), up, bias)
    if diagonal is not None:
        length = len(diagonal)
        y[..., :length] += diagonal * x[..., :length]
    return y


def composing_pays(x: Tensor, shared: Tensor, up: Tensor | None, compose_from: float | None = None) -> bool:
    """Whether W should be composed to multiply x (positions, in), rather than x multiplied by each term."""
    if x.dtype != shared.dtype or torch.is_autocast_enabled(x.device.type):
        return True  # the other way adds in place, in one precision
    if up is None:
        return False
    return len(x) >= (positions_to_compose(*shared.shape) if compose_from is None else compose_from)


def positions_to_compose(out_features: int, in_features: int) -> float:
    """From how many positions on W is composed, by the shape alone, so that a result never depends on how busy a machine was.

    Composing costs passes over W, which has out * in elements, the other way passes over x and y, which have in + out for each
    position. How many of the ones are worth the others depends on the processor, 1 to 6: docs/speed.md says what this costs, and
    `tune_products` measures it for one machine.
    """
    return 1.5 * out_features * in_features / (out_features + in_features)


def factor_by_factor(
    x: Tensor, bias: Tensor | None, shared: Tensor, up: Tensor | None, down: Tensor | None, diagonal: Tensor | None
) -> Tensor:
    """`bias + diagonal x + x Uᵀ + (x downᵀ) upᵀ` for x (positions, in), each added to the one before in place. Has no gradient."""
    y = _bias_and_diagonal(x, bias, shared.size(0), diagonal)
    y.addmm_(x, shared.t())
    if up is not None:
        y.addmm_(linear(x, down), up.t())
    return y


def _bias_and_diagonal(x: Tensor, bias: Tensor | None, out_features: int, diagonal: Tensor | None) -> Tensor:
    """`bias + diag(diagonal) x`, for x (positions, in). The diagonal comes free: any product with a bias begins by spreading it."""
    if bias is None:
        bias = x.new_zeros(out_features)
    length = 0 if diagonal is None else len(diagonal)
    if length == out_features:
        return torch.addcmul(bias, x if length == x.size(1) else x[:, :length], diagonal)
    y = x.new_empty(len(x), out_features)
    if length:
        torch.addcmul(bias[:length], x, diagonal, out=y[:, :length])
    y[:, length:] = bias[length:]
    return y


class _Product(torch.autograd.Function):
    """The product of x (positions, in) with W composed on the way forward and once more on the way back."""

    @staticmethod
    def forward(ctx, x, bias, shared, up, down, diagonal):
        device = x.device.type
        ctx.precision = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(x, shared, up, down, diagonal)
        return linear(x, compose(shared, up, down, diagonal), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, y_gradient):
        x, shared, up, down, diagonal = ctx.saved_tensors
        x_needs_it, bias_needs_it, *terms_need_it = ctx.needs_input_grad
        x_gradient = bias_gradient = shared_gradient = up_gradient = down_gradient = diagonal_gradient = None
        with torch.autocast(*ctx.precision):
            if x_needs_it:
                x_gradient = y_gradient @ compose(shared, up, down, diagonal)
            if bias_needs_it:
                bias_gradient = y_gradient.sum(0)
            if any(terms_need_it):
                gradient = y_gradient.T @ x  # of W, and so of U
                shared_gradient = gradient if terms_need_it[0] else None
                up_gradient = gradient @ down.T if terms_need_it[1] else None
                down_gradient = up.T @ gradient if terms_need_it[2] else None
                # a copy, because autograd may add other layers' gradients to U's in place
                diagonal_gradient = gradient.diagonal().clone() if terms_need_it[3] else None
        return x_gradient, bias_gradient, shared_gradient, up_gradient, down_gradient, diagonal_gradient


def transpose_storage_(module: nn.Module) -> None:
    """Lay out every matrix among a module's parameters column by column, in place; shapes and values stay as they are.

    A product of few positions reads a weight about as fast as memory gives it, and on a CPU takes 0.6 to 0.9 of the time when it
    finds the inputs' side first. From some 500 positions on it makes no difference.
    """
    for parameter in module.parameters():
        if parameter.dim() == 2 and parameter.device.type == "cpu":
            parameter.data = parameter.data.t().contiguous().t()
