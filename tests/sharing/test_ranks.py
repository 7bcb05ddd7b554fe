import pytest

from residual_st.errors import InputError
from residual_st.sharing.ranks import ResidualRanks

NAMES = ("k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2")


@pytest.mark.parametrize(
    ("text", "rows"),
    [(2, ((2,) * 6,) * 3), (0, ((0,) * 6,) * 3), ("1,2,3", ((1,) * 6, (2,) * 6, (3,) * 6)), ("4,1/2/3/4/5/6,0", None)],
)
def test_every_notation_is_parsed_and_written_back(text, rows):
    ranks = ResidualRanks.make(text, layers=3, matrices=NAMES)
    assert str(ranks.to_flag()) == str(text)
    assert ResidualRanks.make(ranks.to_flag(), 3, NAMES) == ranks
    if rows:
        assert ranks.rows == rows


def test_one_row_applies_to_all_layers():
    assert ResidualRanks.make("1/2", layers=3, matrices=("a", "b")).rows == ((1, 2),) * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2", "names 2 layers, but the stack has 3"),
        (-1, "it must be a number of at least 0"),
        ("two", "'two' is not known"),
        ("1,2,3/4", "has 2 ranks, but a layer has 6 matrices"),
        ("1,,2", "is not known"),
    ],
)
def test_invalid_ranks_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        ResidualRanks.make(text, layers=3, matrices=NAMES)
