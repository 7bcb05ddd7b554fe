import pytest

from residual_st.compression.refinement import _chosen_rate


@pytest.mark.parametrize(
    "trials, chosen, tried",
    [
        pytest.param([-0.2, -0.1, 0.03, 0.11, 0.12], 4, 5, id="too little is won at the third"),
        pytest.param([-0.2, -0.1, 0.07, 0.11, 0.10], 3, 5, id="the highest that wins half as much"),
        pytest.param([0.5, 0.4, 0.3, 0.2, 0.1], 1, 2, id="lower ones are not tried where they win less"),
        pytest.param([-5.0, -4.0, -3.0, -2.0, -1.0], 5, 5, id="none wins"),
    ],
)
def test_learning_rate(trials, chosen, tried):
    asked = []

    def won(number):
        asked.append(number)
        return trials[number - 1]

    assert _chosen_rate([1, 2, 3, 4, 5], won) == chosen
    assert len(asked) == tried
