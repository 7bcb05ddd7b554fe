"""One budget over several stacks of a model, such as its encoder and its decoder."""

from torch import nn

from residual_st.compression.allocation import price_within
from residual_st.compression.fit import Stack
from residual_st.compression.layer_weights import read_layer
from residual_st.compression.moments import Calibration, Moments, gather
from residual_st.compression.pipeline import weighed
from residual_st.sharing import in_order, matrix_parameters
from residual_st.stacks import LayerStack


def fractions_of_parts(
    model: nn.Module, stacks: dict[str, LayerStack], calibration: Calibration, weight_fraction: float, diagonal: bool = True
) -> tuple[dict[str, float], dict[str, Moments]]:
    """The weight fraction of each part of a model, such that all parts together keep `weight_fraction` of their weights.

    All weights of all parts get the same price in predicted loss, assuming no sharing.

    Args:
        model: the dense model.
        stacks: part -> its stack.
        calibration: batches and `loss`, which must run all parts.
        weight_fraction: above 0 and at most 1.
        diagonal: whether residuals have a diagonal.

    Returns:
        Part -> fraction, and part -> moments of the dense model's matrices, both for `compress`.
    """
    moments = {part: gather(model, stack, calibration) for part, stack in stacks.items()}
    spectra, sizes, diagonals = {}, {}, {}
    for part, stack in stacks.items():
        trained = Stack(weighed([read_layer(layer) for layer in in_order(stack.layers)], moments[part]), [], diagonal)
        spectra[part] = trained.spectra_alone()
        sizes[part] = matrix_parameters(stack.layers)
        diagonals[part] = len(stack.layers) * sum(map(min, trained.shapes)) if diagonal else 0
    budget = int(weight_fraction * sum(sizes.values())) - sum(diagonals.values())
    price = price_within([spectrum for part in spectra.values() for spectrum in part], budget)
    kept = {part: sum(spectrum.at(price).parameters for spectrum in its) + diagonals[part] for part, its in spectra.items()}
    return {part: kept[part] / sizes[part] for part in stacks}, moments
