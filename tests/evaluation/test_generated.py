import pytest

from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence, read_generated

OUTPUT = """\
T-1\tzwei Bücher <0xE7><0x88><0xB1>!
H-1\t-0.4\t▁zwei ▁Bücher
D-1\t-0.4\tzwei Bücher <0xE7>!
P-1\t-0.1 -0.2
T-0\tein\tTab und D-7
H-0\t-0.5\t▁ein
D-0\t-0.5\tein Tab
D-0\t-0.9\tkein Tab
P-0\t-0.1
Generate tst_st with beam=5: BLEU = 43.1
"""


def test_best_hypotheses_are_read_in_the_order_of_the_manifest(tmp_path):
    (tmp_path / "out.txt").write_text(OUTPUT)
    assert list(read_generated(tmp_path / "out.txt").items()) == [
        (0, Sentence("ein\tTab und D-7", "ein Tab")),
        (1, Sentence("zwei Bücher 爱!", "zwei Bücher \ufffd!")),
    ]


@pytest.mark.parametrize("cut", ["D-1", "T-0", "Generate"])
def test_incomplete_output_is_refused(tmp_path, cut):
    (tmp_path / "out.txt").write_text("".join(line + "\n" for line in OUTPUT.splitlines() if not line.startswith(cut)))
    with pytest.raises(InputError, match="not a complete output of fairseq-generate"):
        read_generated(tmp_path / "out.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_generated(tmp_path / "none.txt")
