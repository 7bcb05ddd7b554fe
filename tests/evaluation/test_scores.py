import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from residual_st.errors import InputError
from residual_st.evaluation.generated import Sentence
from residual_st.evaluation.scores import (
    bleu,
    corpus_scores,
    error_counts,
    error_rate,
    ngram_counts,
    relative_change,
    score_interval,
)
from residual_st.evaluation.units import units_of

WORDS = "der die das Haus Baum sieht hat zwei drei alte neue Bücher Frau Mann".split()


def corpus(noise: float, seed: int, size: int = 200) -> list[Sentence]:
    """References, and hypotheses in which a share of the words is replaced."""
    texts, errors = random.Random(0), random.Random(seed)
    sentences = []
    for _ in range(size):
        reference = [texts.choice(WORDS) for _ in range(texts.randint(4, 12))]
        hypothesis = [word if errors.random() > noise else "falsch" for word in reference]
        sentences.append(Sentence(" ".join(reference), " ".join(hypothesis)))
    return sentences


def test_bleu_from_counts_equals_sacrebleu():
    sentences = [*corpus(0.3, 1), Sentence("ein Wort", ""), Sentence("kurz", "kurz und lang")]
    expected = BLEU().corpus_score([s.hypothesis for s in sentences], [[s.reference for s in sentences]]).score
    assert bleu(ngram_counts(sentences).sum(0)) == pytest.approx(expected)
    assert corpus_scores(sentences)["bleu"] == pytest.approx(expected, abs=1e-3)
    assert "nrefs:1" in corpus_scores(sentences)["bleu_signature"]


def test_word_errors_are_substitutions_insertions_and_deletions():
    sentences = [Sentence("a b c d", "a x c"), Sentence("a b", "a b e"), Sentence("a", "a")]
    assert error_counts(sentences).tolist() == [[2, 4], [1, 2], [0, 1]]
    assert error_rate(error_counts(sentences).sum(0)) == pytest.approx(100 * 3 / 7)


@pytest.mark.parametrize(("metric", "counts"), [("wer", error_counts), ("bleu", ngram_counts)])
def test_interval_contains_the_score_and_narrows_with_more_sentences(metric, counts):
    wide, narrow = ([counts(corpus(0.2, seed, size)) for seed in (1, 2, 3)] for size in (100, 1600))
    estimates = [score_interval(metric, each) for each in (wide, narrow)]
    assert all(it.low < it.value < it.high for it in estimates)
    ratio = (estimates[0].high - estimates[0].low) / (estimates[1].high - estimates[1].low)
    assert 2.5 < ratio < 6.5  # 16 times the sentences: a quarter of the width


def test_interval_of_a_change_contains_0_only_for_equal_systems():
    reference = [error_counts(corpus(0.2, seed)) for seed in (1, 2, 3)]
    equal = [error_counts(corpus(0.2, seed)) for seed in (4, 5, 6)]
    worse = [error_counts(corpus(0.26, seed)) for seed in (4, 5, 6)]
    same = relative_change("wer", reference, reference)
    assert (same.value, same.low, same.high) == (0, 0, 0)  # paired over the same sentences
    change = relative_change("wer", equal, reference)
    assert change.low < 0 < change.high
    change = relative_change("wer", worse, reference)
    assert 0 < change.low < change.value < change.high
    assert change.value == pytest.approx(30, abs=12)


def test_interval_has_its_nominal_coverage():
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


def test_chinese_is_scored_with_sacrebleus_tokenizer_and_by_characters():
    pairs = [("我们昨天在学校门口见过面。", "我们昨天在学校见过面。"), ("他买了三本新书。", "他买了三本书。")]
    sentences = [Sentence(*pair) for pair in pairs]
    expected = BLEU(trg_lang="zh").corpus_score([pair[1] for pair in pairs], [[pair[0] for pair in pairs]])
    assert expected.score > 30
    assert bleu(ngram_counts(sentences).sum(0)) == pytest.approx(expected.score)
    assert corpus_scores(sentences)["bleu"] == pytest.approx(expected.score, abs=1e-3)
    assert "tok:zh" in corpus_scores(sentences)["bleu_signature"]
    assert error_counts(sentences).tolist() == [[2, 13], [1, 8]]
    assert corpus_scores(sentences)["wer_units"] == "CER"


@pytest.mark.parametrize(
    ("text", "tokenizers", "characters"),
    [
        ("Das Wort 中 ist ein Zeichen.", ["13a"], False),
        ("Это новый дом.", ["13a"], False),
        ("我用 iPhone 打电话。", ["zh"], True),
        ("彼は新しい本を三冊買った。", ["ja-mecab", "char"], True),  # `char` if MeCab is missing
        ("그는 새 책을 세 권 샀다.", ["ko-mecab", "13a"], False),
        ("เขาซื้อหนังสือใหม่สามเล่ม", ["char"], True),
        ("", ["13a"], False),
    ],
)
def test_units_follow_the_script_of_the_references(text, tokenizers, characters):
    units = units_of([text])
    assert units.tokenize in tokenizers and units.characters is characters
    assert units_of([text], "intl").tokenize == "intl" and units_of([text], "intl").characters is characters
    with pytest.raises(InputError, match=r"^tokenize words must be one of sacreBLEU's .*13a"):
        units_of([text], "words")


@pytest.mark.filterwarnings("error")
def test_change_from_zero_is_reported():
    nothing = [error_counts([Sentence("a b", "a b"), Sentence("c", "c")])]
    some = [error_counts([Sentence("a b", "a x"), Sentence("c", "c")])]
    assert str(relative_change("wer", some, nothing)) == "–"
    assert str(relative_change("wer", nothing, nothing)) == "0.00 (0.00 to 0.00)"
    assert str(relative_change("wer", nothing, some)) == "-100.00 (-100.00 to 0.00)"  # resamples may contain no error
    often = [error_counts([Sentence("a b", "x y"), Sentence("c", "x")])]
    assert str(relative_change("wer", often, some)).endswith(" to ∞)")
    assert str(relative_change("bleu", [ngram_counts([Sentence("a", "")])], [ngram_counts([Sentence("a", "")])])).startswith("0.00")
    assert str(score_interval("wer", [error_counts([Sentence("", "a")])])) == "–"
    assert str(score_interval("wer", [error_counts([Sentence("a b", "")])])) == "100.00 (100.00 to 100.00)"
