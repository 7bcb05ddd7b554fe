import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import (
    bleu,
    corpus_scores,
    error_counts,
    ngram_counts,
    relative_change,
    score_interval,
    word_error_rate,
)

WORDS = "der die das Haus Baum sieht hat zwei drei alte neue Bücher Frau Mann".split()


def corpus(noise: float, seed: int, size: int = 200) -> list[Sentence]:
    """References, and hypotheses with a share of their words replaced."""
    texts, errors = random.Random(0), random.Random(seed)
    sentences = []
    for _ in range(size):
        reference = [texts.choice(WORDS) for _ in range(texts.randint(4, 12))]
        hypothesis = [word if errors.random() > noise else "falsch" for word in reference]
        sentences.append(Sentence(" ".join(reference), " ".join(hypothesis)))
    return sentences


def test_bleu_from_counts_is_sacrebleus():
    sentences = [*corpus(0.3, 1), Sentence("ein Wort", ""), Sentence("kurz", "kurz und lang")]
    expected = BLEU().corpus_score([s.hypothesis for s in sentences], [[s.reference for s in sentences]]).score
    assert bleu(ngram_counts(sentences).sum(0)) == pytest.approx(expected)
    assert corpus_scores(sentences)["bleu"] == pytest.approx(expected, abs=1e-3)
    assert "nrefs:1" in corpus_scores(sentences)["bleu_signature"]


def test_word_errors_are_substitutions_insertions_and_deletions():
    sentences = [Sentence("a b c d", "a x c"), Sentence("a b", "a b e"), Sentence("a", "a")]
    assert error_counts(sentences).tolist() == [[2, 4], [1, 2], [0, 1]]
    assert word_error_rate(error_counts(sentences).sum(0)) == pytest.approx(100 * 3 / 7)


@pytest.mark.parametrize(("metric", "counts"), [("wer", error_counts), ("bleu", ngram_counts)])
def test_a_systems_interval_holds_its_score_and_narrows_with_the_test_set(metric, counts):
    wide, narrow = ([counts(corpus(0.2, seed, size)) for seed in (1, 2, 3)] for size in (100, 1600))
    estimates = [score_interval(metric, each) for each in (wide, narrow)]
    assert all(it.low < it.value < it.high for it in estimates)
    ratio = (estimates[0].high - estimates[0].low) / (estimates[1].high - estimates[1].low)
    assert 2.5 < ratio < 6.5  # four times, for sixteen times the sentences


def test_the_interval_of_a_change_covers_none_for_equals_and_excludes_it_for_worse_ones():
    reference = [error_counts(corpus(0.2, seed)) for seed in (1, 2, 3)]
    equal = [error_counts(corpus(0.2, seed)) for seed in (4, 5, 6)]
    worse = [error_counts(corpus(0.26, seed)) for seed in (4, 5, 6)]
    same = relative_change("wer", reference, reference)
    assert (same.value, same.low, same.high) == (0, 0, 0)  # paired: the very sentences
    change = relative_change("wer", equal, reference)
    assert change.low < 0 < change.high
    change = relative_change("wer", worse, reference)
    assert 0 < change.low < change.value < change.high
    assert change.value == pytest.approx(30, abs=12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        errors = rng.binomial(10, 0.2, size=(3, 150))
        estimate = score_interval("wer", [np.stack([row, np.full(150, 10)], 1).astype(float) for row in errors])
        covered += estimate.low <= 20 <= estimate.high
    assert covered >= 50


def test_differences_between_training_seeds_widen_the_interval():
    alike = [error_counts(corpus(0.2, seed)) for seed in (1, 2, 3)]
    unlike = [error_counts(corpus(noise, seed)) for noise, seed in ((0.1, 1), (0.2, 2), (0.3, 3))]
    widths = [it.high - it.low for it in (score_interval("wer", counts) for counts in (alike, unlike))]
    assert widths[1] > 3 * widths[0]
