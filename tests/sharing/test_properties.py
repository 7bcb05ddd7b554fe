"""Properties of random plans, ranks and forms."""

from argparse import Namespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from residual_st.errors import InputError
from residual_st.sharing import ResidualLinear, current_form, form_of, share_layers
from residual_st.sharing.form import SharedForm
from residual_st.sharing.layers import unshare_layers
from residual_st.sharing.plan import PATTERNS, SharingPlan
from residual_st.sharing.ranks import Alone, ResidualRanks

MATRICES = ("0", "2")  # in a layer of `Stack`
WIDTH, INNER = 6, 8


@st.composite
def plans(draw) -> SharingPlan:
    layers = draw(st.integers(1, 12))
    if draw(st.booleans()):
        return SharingPlan.make(layers, draw(st.integers(1, layers)), draw(st.sampled_from(PATTERNS)))
    groups = draw(st.lists(st.integers(0, layers - 1), min_size=layers, max_size=layers))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return SharingPlan(tuple(numbers[group] for group in groups))


def rank_rows(layers: int) -> st.SearchStrategy:
    rank = st.integers(0, WIDTH) | st.integers(1, WIDTH).map(Alone)
    return st.lists(st.tuples(*[rank] * len(MATRICES)), min_size=layers, max_size=layers)


@st.composite
def forms(draw) -> SharedForm:
    plan = draw(plans())
    ranks = ResidualRanks(MATRICES, tuple(draw(rank_rows(len(plan.groups)))))
    return SharedForm(plan, ranks, draw(st.booleans()))


@given(st.integers(1, 40), st.data(), st.sampled_from(PATTERNS))
def test_plan_uses_every_group_and_respects_the_group_size(layers, data, pattern):
    group_size = data.draw(st.integers(1, layers))
    plan = SharingPlan.make(layers, group_size, pattern)
    assert set(plan.groups) == set(range(plan.n_groups))
    assert max(map(plan.groups.count, plan.groups)) <= group_size
    assert sorted(layer for group in range(plan.n_groups) for layer in plan.layers_of(group)) == list(range(layers))


@given(forms())
def test_flags_describe_a_form_completely(form):
    flags = Namespace(**form.to_flags("encoder_"))
    assert SharedForm.from_flags(flags, "encoder_", MATRICES) == form
    assert SharingPlan.make(len(form.plan.groups), 1, str(form.plan)) == form.plan


@given(st.text() | st.lists(st.integers(-3, 9), max_size=8).map(lambda groups: ",".join(map(str, groups))), st.integers(1, 8))
def test_any_pattern_is_accepted_or_refused(pattern, layers):
    try:
        plan = SharingPlan.make(layers, 1, pattern)
    except InputError:
        return
    assert len(plan.groups) == layers and set(plan.groups) == set(range(plan.n_groups))


@given(st.text(alphabet="0123456789=/,- x²٣") | st.text(), st.integers(1, 4))
def test_any_ranks_are_accepted_or_refused(text, layers):
    try:
        ranks = ResidualRanks.make(text, layers, MATRICES)
    except InputError:
        return
    assert len(ranks.rows) == layers
    assert all(rank >= (1 if isinstance(rank, Alone) else 0) for row in ranks.rows for rank in row)
    assert ResidualRanks.make(str(ranks), layers, MATRICES) == ranks


@settings(deadline=None, max_examples=60)
@given(forms())
def test_stack_of_any_form_stores_each_u_once_and_unshares_exactly(form):
    torch.manual_seed(1)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH)) for _ in form.plan.groups)
    model = nn.Module()
    model.layers, model.shared_weights = layers, share_layers(layers, form)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    pointers = [value.data_ptr() for value in model.state_dict().values() if value.numel()]
    assert len(pointers) == len(set(pointers))
    of_u = [name for name in model.state_dict() if name.startswith("shared_weights.") and not name.endswith("layer_groups")]
    assert len(of_u) <= form.plan.n_groups * len(MATRICES)

    def outputs() -> list[torch.Tensor]:
        x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
        return [layer(x) for layer in layers]

    terms = [matrix for matrix in layers.modules() if isinstance(matrix, ResidualLinear)]
    found_form = current_form(layers, model.shared_weights)
    assert (found_form.plan, found_form.ranks) == (form.plan, form.ranks) or not terms
    assert found_form.diagonal == form.diagonal or not terms

    before = outputs()
    unshare_layers(layers)
    for expected, actual in zip(before, outputs()):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@given(st.integers(WIDTH + 1, 10**9))
def test_rank_above_the_smaller_side_is_refused(rank):
    layers = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH)) for _ in range(2))
    with pytest.raises(InputError, match="does not fit"):
        form_of(layers, group_size=2, rank=rank)
