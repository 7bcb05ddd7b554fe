import pytest

from residual_st.errors import InputError
from residual_st.sharing.plan import SharingPlan


@pytest.mark.parametrize(
    ("layers", "group_size", "pattern", "groups"),
    [
        (6, 3, "adjacent", (0, 0, 0, 1, 1, 1)),
        (7, 3, "adjacent", (0, 0, 0, 1, 1, 1, 2)),
        (6, 2, "cycle", (0, 1, 2, 0, 1, 2)),
        (6, 2, "cycle-reverse", (0, 1, 2, 2, 1, 0)),  # Takase & Kiyono 2021
        (9, 3, "cycle-reverse", (0, 1, 2, 0, 1, 2, 2, 1, 0)),
        (7, 3, "cycle", (0, 1, 2, 0, 1, 2, 0)),
        (7, 3, "cycle-reverse", (0, 1, 2, 0, 1, 2, 2)),
        (6, 1, "adjacent", (0, 1, 2, 3, 4, 5)),
        (6, 6, "cycle", (0, 0, 0, 0, 0, 0)),
        (6, 3, "0,0,1,1,1,2", (0, 0, 1, 1, 1, 2)),
        (4, 3, "1,0,0,1", (1, 0, 0, 1)),
    ],
)
def test_groups(layers, group_size, pattern, groups):
    assert SharingPlan.make(layers, group_size, pattern).groups == groups


@pytest.mark.parametrize("layers", range(1, 25))
@pytest.mark.parametrize("pattern", ["adjacent", "cycle", "cycle-reverse"])
def test_groups_are_few_and_at_most_of_the_group_size(layers, pattern):
    for group_size in range(1, layers + 1):
        plan = SharingPlan.make(layers, group_size, pattern)
        assert len(plan.groups) == layers
        assert plan.n_groups == -(-layers // group_size)
        assert max(len(plan.layers_of(group)) for group in range(plan.n_groups)) <= group_size


@pytest.mark.parametrize(
    ("layers", "group_size", "pattern", "message"),
    [
        (12, 13, "adjacent", "group size 13 .* 12 layers; it must be from 1 to 12"),
        (12, 0, "cycle", "group size 0"),
        (12, 3, "adjacnet", "'adjacnet' is not known; it must be one of adjacent, cycle, cycle-reverse"),
        (4, 3, "0,0,1", "names 3 layers, but the stack has 4"),
        (4, 3, "0,0,2,2", "every group from 0 to 2"),
        (4, 3, "0,0,-1,1", "every group from 0 to 1"),
        (0, 3, "adjacent", "0 layers"),
    ],
)
def test_invalid_plans_are_refused(layers, group_size, pattern, message):
    with pytest.raises(InputError, match=message):
        SharingPlan.make(layers, group_size, pattern)
