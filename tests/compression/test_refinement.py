import pytest

from residual_st.compression.refinement import _chosen_rate


@pytest.mark.parametrize(
    "trials, chosen, tried",
    [
        pytest.param([-0.2, -0.1, 0.03, 0.11, 0.12], 4, 5, id="the third gains too little"),
        pytest.param([-0.2, -0.1, 0.07, 0.11, 0.10], 3, 5, id="the highest that gains at least half as much"),
        pytest.param([0.5, 0.4, 0.3, 0.2, 0.1], 1, 2, id="lower rates are not tried once they gain less"),
        pytest.param([-5.0, -4.0, -3.0, -2.0, -1.0], 5, 5, id="none improves"),
    ],
)
def test_learning_rate_is_chosen_by_trials(trials, chosen, tried):
    tried_rates = []

    def gain(number):
        tried_rates.append(number)
        return trials[number - 1]

    assert _chosen_rate([1, 2, 3, 4, 5], gain) == chosen
    assert len(tried_rates) == tried
