"""Which words policies commit, and how texts are aligned to committed words."""

from os.path import commonprefix

import editdistance
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from residual_st.streaming.policies import (
    CUTOFF_SECONDS,
    AlignAtt,
    Candidate,
    GreedyCtc,
    LocalAgreement,
    Retranslation,
    between_words,
    covered,
)

TEXTS = st.lists(st.integers(0, 4), max_size=12)


@given(TEXTS, TEXTS)
def test_covered_words_have_the_smallest_edit_distance(words, text):
    distances = [editdistance.eval(words[:count], text) for count in range(len(words) + 1)]
    count = covered(words, text)
    assert distances[count] == min(distances)
    assert min(distances) not in distances[count + 1 :]


@given(st.lists(TEXTS, max_size=6))
def test_local_agreement_commits_what_two_consecutive_steps_agree_on(texts):
    """Except the last word of a text. Searches continue the committed words, so each text begins with them."""
    policy, committed, before = LocalAgreement(), [], []
    for candidate in texts:
        text = committed + candidate
        committed = text[: len(committed) + policy.committed(Candidate(candidate))]
        assert committed == commonprefix([before, text])[: max(len(text) - 1, len(text) - len(candidate))]
        before = text


def test_alignatt_stops_at_the_first_word_that_attends_to_the_end():
    ends = np.array([3.0, 1.0, CUTOFF_SECONDS, CUTOFF_SECONDS - 0.01, 2.0])
    assert AlignAtt().committed(Candidate([1, 2, 3, 4, 5], ends)) == 3
    assert AlignAtt().committed(Candidate([1, 2, 3], ends[:3])) == 3
    assert AlignAtt().committed(Candidate([], np.zeros(0))) == 0


def test_final_ctc_words_are_committed_at_once_and_others_after_half_a_second():
    words, ends = [1, 2, 3], np.array([1.0, CUTOFF_SECONDS, 0.0])
    assert GreedyCtc().committed(Candidate(words, ends, are_final=True)) == 3
    assert GreedyCtc().committed(Candidate(words, ends)) == 2
    assert GreedyCtc().committed(Candidate([], np.zeros(0), are_final=True)) == 0


def test_retranslation_commits_nothing():
    policy = Retranslation()
    assert [policy.committed(Candidate([1, 2])) for _ in range(3)] == [0, 0, 0]


def test_text_is_cut_between_words():
    """A committed word is never split: otherwise its first pieces would be output again without the rest."""
    pieces = ["▁der", "▁Bä", "cker", "▁mal", "t", "."]

    def written(words: list[int]) -> str:
        return "".join(pieces[word] for word in words).replace("▁", " ").strip()

    whole = list(range(len(pieces)))
    assert [between_words(whole, here, written) for here in range(7)] == [0, 1, 1, 3, 3, 3, 6]
    assert between_words([1, 2], 1, written) == 1
