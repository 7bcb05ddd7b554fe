"""The scripts of the page compute the same as the vocabulary, rules and searches of residual_st/runtime."""

import numpy as np
import pytest

from residual_st.languages import Direction, Languages
from residual_st.runtime.beam_search import BeamSearch, Hypothesis
from residual_st.runtime.fallback import Fallback
from residual_st.runtime.rules import Rules
from residual_st.runtime.sampling import draw
from residual_st.runtime.settings import FAIRSEQ, Settings
from residual_st.runtime.timestamps import TimeStamps
from residual_st.runtime.vocabulary import Vocabulary
from residual_st.streaming.policies import Candidate, LocalAgreement, between_words, covered
from residual_st.web.static import PAGE


@pytest.fixture
def scripts(page, file_server):
    """A page that can import the page's modules."""
    page.goto(f"{file_server(PAGE)}/page.css")
    return page


LETTERS = ["Ġ", "a", "Ã", "¤", "ð", "Ł", "Ļ", "Ĥ", " x y", "é", "ï", "»", "¿", ".", "'s"]
PIECES = [
    "▁",
    "▁die",
    "e",
    *(f"<0x{byte:02X}>" for byte in (0x61, 0xE7, 0x88, 0xB1, 0xF0, 0x9F, 0xED, 0xA0, 0xEF, 0xBB, 0xBF, 0xC0)),
]


@pytest.mark.parametrize("pieces, symbols", [("bytes", LETTERS), ("sentencepiece", PIECES), ("words", PIECES)])
def test_page_joins_texts_like_the_runtime(pieces, symbols, scripts):
    fields = {"start": 0, "begin": [], "eos": 0, "pad": None, "unk": None, "hidden": [1]}
    fields |= {"symbols": symbols, "pieces": pieces, "replaced": [[" .", "."], [" 's", "'s"]]}
    draw = np.random.default_rng(1)
    rows = [draw.integers(len(symbols), size=draw.integers(9)).tolist() for _ in range(2000)]
    written = scripts.evaluate(
        "async ([fields, rows]) => { const { text } = await import('/vocabulary.js'); return rows.map(row => text(fields, row)); }",
        [fields, rows],
    )
    assert written == [Vocabulary(**fields).text(row) for row in rows]


FIELDS = {"start": 0, "begin": [], "eos": 1, "pad": 2, "unk": None, "hidden": [], "pieces": "words"}
FIELDS["symbols"] = [str(number) for number in range(12)]
# words from 8 on are timestamps
TIMES = {"none": 7, "first": 8, "seconds": 0.02, "latest_start": 2, "silence": 6}


def decoder(seed):
    """A random decoder whose scores depend on the last word and the number of words: as a table, and as a function."""
    table = np.random.default_rng(seed).normal(0, 1.5, (40, 12, 12))
    table[:, :, 1] += 0.5
    table = (table - np.log(np.exp(table).sum(-1, keepdims=True))).astype(np.float32)
    count = iter(range(40))
    return table, lambda last, order: table[next(count)][last]


@pytest.mark.parametrize(
    "settings, words, times",
    [
        ({}, {}, None),
        ({"beam": 3, "lenpen": 0.3, "early_stopping": False, "min_len": 4}, {"prompted": True, "begin": [5, 6]}, None),
        ({"beam": 1, "early_stopping": False, "max_len_b": 6}, {"begin": [5], "suppressed": [9], "begin_suppressed": [4, 1]}, None),
        ({"beam": 4, "early_stopping": False}, {"prompted": True, "begin": [8], "begin_suppressed": [1, 10]}, None),
        ({"beam": 2, "unkpen": 1.5}, {"unk": 3, "suppressed": [2, 7]}, None),
        ({"beam": 1, "early_stopping": False}, {"prompted": True, "begin": [5]}, TIMES),
        ({"beam": 4, "early_stopping": False}, {"prompted": True, "suppressed": [3]}, {**TIMES, "latest_start": None}),
    ],
)
def test_page_searches_like_the_runtime(settings, words, times, scripts):
    complete, vocabulary = Settings(**settings).completed(FAIRSEQ), Vocabulary(**{**FIELDS, **words})
    prompt, prefix = vocabulary.opening([])
    for seed in range(8):
        given = [4, 11][: seed % 3]  # words of an earlier text
        rules = Rules(vocabulary, complete, min(complete.max_len_b, 30), prefix, times and TimeStamps(**times), given)
        table, step = decoder(seed)
        ((best,),) = BeamSearch(step, None, rules, complete, prompt).run(1)
        likeliest = draw(decoder(seed)[1], rules, prompt, 0.0, None)
        results = scripts.evaluate(
            """async ([table, fields, settings, longest, times, given]) => {
                const { search } = await import('/beam_search.js'), { draw } = await import('/sampling.js');
                const { opening } = await import('/vocabulary.js'), { Rules } = await import('/rules.js');
                const { prompt, prefix } = opening(fields, []), rules = new Rules(fields, settings, longest, prefix, times, given);
                const made = (count, last) => Float32Array.from(last.flatMap(word => table[count][word]));
                const step = count => last => made(count++, last);
                return [await search(step(0), rules, settings, prompt), await draw(step(0), rules, prompt, 0, null)];
            }""",
            [table.tolist(), vars(vocabulary), vars(complete), rules.longest, times, given],
        )
        for text, expected in zip(results, (best, likeliest)):
            assert text["tokens"] == expected.tokens
            assert text["score"] == pytest.approx(expected.score, abs=1e-4)


def test_page_commits_words_like_the_runtime(scripts):
    fields, random = {**FIELDS, "symbols": PIECES, "pieces": "sentencepiece"}, np.random.default_rng(1)
    texts = [random.integers(4, size=random.integers(9)).tolist() for _ in range(400)]
    results = scripts.evaluate(
        """async ([fields, texts]) => {
            const { LocalAgreement, betweenWords, covered } = await import('/policies.js'), policy = new LocalAgreement();
            const { text: written } = await import('/vocabulary.js');
            return texts.map((words, place) => {
                const here = covered(words, texts[place - 1] ?? []);
                return [policy.committed(words), here, betweenWords(words, here, some => written(fields, some))];
            });
        }""",
        [fields, texts],
    )
    policy, written = LocalAgreement(), Vocabulary(**fields).text
    heres = [covered(words, before) for words, before in zip(texts, [[], *texts])]
    expected = [
        [policy.committed(Candidate(words)), here, between_words(words, here, written)] for words, here in zip(texts, heres)
    ]
    assert results == expected
    assert len({here == place for _, here, place in expected}) == 2


def test_page_splits_segments_like_the_runtime(scripts):
    timestamps, random = TimeStamps(**TIMES), np.random.default_rng(1)
    texts = [random.choice([3, 4, 5, 8, 9, 10, 11], random.integers(1, 9)).tolist() for _ in range(500)]
    results = scripts.evaluate(
        """async ([times, texts]) => {
            const { segments } = await import('/timestamps.js');
            return texts.map(tokens => segments(times, tokens, 30)).map(({ sentences, done }) => [sentences, done]);
        }""",
        [TIMES, texts],
    )
    expected = [timestamps.segments(tokens, 30.0) for tokens in texts]
    assert results == [[[list(sentence) for sentence in sentences], done] for sentences, done in expected]
    assert len({(len(sentences) > 1, done < 30) for sentences, done in expected}) == 4


def test_page_rejects_texts_like_the_runtime(scripts):
    """Texts that repeat three words, and random texts. Browsers compress them to the size of zlib within two bytes."""
    random, fields = np.random.default_rng(1), {**FIELDS, "symbols": [str(number) for number in range(51865)]}
    texts = [random.integers(51865, size=count).tolist() * times for count in (1, 3, 10) for times in (1, 2, 3, 5, 30)] + [[]]
    results = scripts.evaluate(
        """async ([fields, texts]) => {
            const { isGuess, repeatsItself } = await import('/fallback.js');
            const repeats = await Promise.all(texts.map(tokens => repeatsItself({ compression_ratio: 1.35 }, { tokens }, fields)));
            return [repeats, [-1.5, -0.5].map(score => isGuess({ log_prob: -1 }, { score }))];
        }""",
        [fields, texts],
    )
    believed = Fallback(compression_ratio=1.35, log_prob=-1.0)
    repeats = [believed.repeats_itself(Hypothesis(tokens, 0.0), 1, 51865) for tokens in texts]
    assert results == [repeats, [True, False]]
    assert len(set(repeats)) == 2


def test_page_samples_from_the_models_distribution(scripts):
    """Sharper at lower temperatures, and reproducible for a seed."""
    chances = np.array([0.6, 0.0, 0.3, 0.1])
    for temperature in (1.0, 0.5):
        words, same = scripts.evaluate(
            """async ([fields, chances, temperature]) => {
                const { draw } = await import('/sampling.js'), { Rules } = await import('/rules.js');
                const { randomFrom } = await import('/numbers.js');
                const step = () => Float32Array.from(chances, Math.log), rules = new Rules(fields, { unkpen: 0, min_len: 0 }, 1);
                const texts = async random => {
                    const drawn = [];
                    for (let count = 0; count < 3000; count++) drawn.push(await draw(step, rules, [0], temperature, random));
                    return drawn.map(({ tokens }) => tokens[0] ?? fields.eos);
                };
                const words = await texts(randomFrom(1));
                return [words, String(words) === String(await texts(randomFrom(1)))];
            }""",
            [{**FIELDS, "eos": 3, "pad": None}, chances.tolist(), temperature],
        )
        expected = chances ** (1 / temperature)
        np.testing.assert_allclose(np.bincount(words, minlength=4) / 3000, expected / expected.sum(), atol=0.03)
        assert same


def test_page_sends_tasks_and_languages_like_the_runtime(scripts):
    """fairseq models have only targets. English Whisper models have no word for their only language."""
    whisper = {"tasks": {"transcribe": [20], "translate": [21]}, "sources": {"en": [10], "es": [11]}, "targets": {"en": []}}
    for languages, direction in (
        (whisper, ("transcribe", "es", None)),
        (whisper, ("translate", "es", "en")),
        ({"tasks": {"transcribe": []}, "sources": {"en": []}}, ("transcribe", "en", None)),
        ({"targets": {"de": [5], "fr": [6]}}, (None, None, "fr")),
        ({}, (None, None, None)),
    ):
        direction = Direction(*direction)
        results = scripts.evaluate(
            "async given => (await import('/languages.js')).wordsOf(...given)",
            [languages, vars(direction)],
        )
        assert results == Languages(**languages).words(direction)
