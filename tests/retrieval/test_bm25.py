"""BM25 against a reference written down from the formula, and what must hold for any text."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import numpy as np
import pytest
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import example, given
from hypothesis import strategies as st

from kard.errors import UserError
from kard.recipe import RetrieverSection
from kard.retrieval.bm25 import Bm25
from kard.retrieval.scoring import best

PLAIN = RetrieverSection(stemmer=None, stopwords=None)
ENGLISH = RetrieverSection()

PASSAGES = [
    "The cat sat on the mat.",
    "A dog and a cat, and another cat!",
    "Dogs chase cats; cats chase mice.",
    "",
    "Ohm's law: the current through a conductor is proportional to the voltage.",
    "cat",
    "The Café of Zürich is naïve.",
    "The cat sat on the mat.",
    "... ?! ...",
]


def tokens(text: str, section: RetrieverSection) -> list[str]:
    words = re.findall(r"\b\w\w+\b", text.lower())
    words = [word for word in words if not (section.stopwords and word in STOPWORDS_EN)]
    return Stemmer.Stemmer(section.stemmer).stemWords(words) if section.stemmer else words


def reference(texts: list[str], query: str, section: RetrieverSection) -> list[float]:
    """Lucene's BM25 (Kamphuis et al. 2020, table 1, "Lucene (accurate)") in double precision, a score a passage."""
    counts = [Counter(tokens(text, section)) for text in texts]
    lengths = [sum(count.values()) for count in counts]
    average = sum(lengths) / len(texts)
    scores = [0.0] * len(texts)
    for word in tokens(query, section):
        frequency = sum(word in count for count in counts)
        idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for place, count in enumerate(counts):
            if count[word]:
                norm = section.k1 * (1 - section.b + section.b * lengths[place] / average)
                scores[place] += idf * count[word] / (count[word] + norm)
    return scores


def found(index: Bm25, query: str, k: int = 100) -> list[tuple[int, float]]:
    [hits] = index.search([query], k)
    return list(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True))


def as_reference(pairs: list[tuple[int, float]], scores: list[float]) -> None:
    """The same passages with the same scores, in the reference's order as far as float32 can tell."""
    expected = sorted((place for place, score in enumerate(scores) if score > 0), key=lambda place: -scores[place])
    assert sorted(place for place, _ in pairs) == sorted(expected)
    assert [score for _, score in pairs] == pytest.approx([scores[place] for place in expected], rel=1e-5)
    for place, score in pairs:
        assert score == pytest.approx(scores[place], rel=1e-5)


@pytest.mark.parametrize("section", [PLAIN, ENGLISH, RetrieverSection(k1=1.7, b=0.9), RetrieverSection(b=0.0)])
@pytest.mark.parametrize(
    "query",
    ["cat", "cats and dogs", "cat cat dog", "the current of a conductor", "CAFÉ naïve", "cat zebra", "mice mat law"],
)
def test_scores_are_the_references(query, section):
    as_reference(found(Bm25.build(PASSAGES, section), query), reference(PASSAGES, query, section))


def test_thousand_passages_rank_as_the_reference():
    chance = random.Random(3)
    words = [f"word{number}" for number in range(200)]
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 40))) for _ in range(1000)]
    index = Bm25.build(texts, PLAIN)
    for query in (" ".join(chance.choices(words, k=length)) for length in (1, 3, 12)):
        scores = reference(texts, query, PLAIN)
        for k in (1, 7, 100, 1000):
            pairs = found(index, query, k)
            best = sorted(scores, reverse=True)[: len(pairs)]
            assert len(pairs) == min(k, sum(score > 0 for score in scores))
            assert [score for _, score in pairs] == pytest.approx(best, rel=1e-5)
            assert [scores[place] for place, _ in pairs] == pytest.approx(best, rel=1e-5)


def test_ties_go_to_the_earlier_passage():
    texts = ["red stone", "blue stone", "red stone", "green lamp", "red stone"]
    index = Bm25.build(texts, PLAIN)
    assert [place for place, _ in found(index, "red")] == [0, 2, 4]
    for k in (1, 2, 3, 4):
        assert [place for place, _ in found(index, "stone", k)] == [0, 1, 2, 4][:k]


@given(st.lists(st.sampled_from([0.0, -1.0, 0.5, 0.5, 1.0, 2.0]), max_size=30), st.integers(0, 12))
def test_the_best_are_the_first_of_all_sorted(scores, k):
    """Many equal scores: the later one leaves the heap first."""
    positions, kept = best(np.array(scores, dtype=np.float32), k)
    ranked = sorted((-score, place) for place, score in enumerate(scores) if score > 0)[:k]
    assert list(zip((-kept).tolist(), positions.tolist(), strict=True)) == ranked


def test_unknown_words_and_empty_queries_find_nothing():
    index = Bm25.build(PASSAGES, ENGLISH)
    for query in ("zebra quagga", "", "   ", "?!", "the and of", "x"):
        assert found(index, query) == []
        assert not index.scores(query).any()
    assert index.search([], 5) == []


def test_unknown_words_beside_known_ones_change_nothing():
    index = Bm25.build(PASSAGES, ENGLISH)
    assert found(index, "quagga cat zebra") == found(index, "cat")


def test_a_repeated_query_word_counts_twice():
    index = Bm25.build(PASSAGES, PLAIN)
    assert index.scores("cat cat") == pytest.approx(2 * index.scores("cat"), rel=1e-6)


def test_more_passages_asked_for_than_there_are():
    index = Bm25.build(PASSAGES, ENGLISH)
    assert found(index, "cat", 10_000) == found(index, "cat", len(PASSAGES))
    assert found(index, "cat", 0) == []


def test_k_is_a_prefix_of_a_longer_search():
    index = Bm25.build(PASSAGES, ENGLISH)
    whole = found(index, "cat mat dog law")
    for k in range(1, len(whole) + 1):
        assert found(index, "cat mat dog law", k) == whole[:k]


def test_scores_are_those_of_the_search():
    index = Bm25.build(PASSAGES, ENGLISH)
    every = index.scores("cat mat")
    assert every.shape == (len(PASSAGES),)
    assert {place: score for place, score in enumerate(every.tolist()) if score > 0} == dict(found(index, "cat mat"))


def test_a_batch_is_one_query_after_the_other():
    index = Bm25.build(PASSAGES, ENGLISH)
    queries = ["cat", "", "law of voltage", "zebra", "cat", "dogs chase"] * 20
    together = index.search(queries, 4)
    for query, hits in zip(queries, together, strict=True):
        [alone] = index.search([query], 4)
        assert np.array_equal(hits.positions, alone.positions)
        assert np.array_equal(hits.scores, alone.scores)


@pytest.mark.parametrize("section", [PLAIN, ENGLISH, RetrieverSection(stemmer="german", stopwords="german")])
def test_a_saved_index_finds_the_same(tmp_path, section):
    index = Bm25.build(PASSAGES, section)
    index.save(tmp_path / "Verzeichnis é")
    loaded = Bm25.load(tmp_path / "Verzeichnis é")
    assert (loaded.stemmer, loaded.stopwords, loaded.size) == (section.stemmer, section.stopwords, len(PASSAGES))
    for query in ("cat", "Cats and dogs", "café", "the", ""):
        assert found(loaded, query) == found(index, query)


def test_the_stemmer_joins_forms_and_null_keeps_them_apart():
    texts = ["running", "runs", "a walk"]
    assert [place for place, _ in found(Bm25.build(texts, ENGLISH), "run")] == [0, 1]
    assert found(Bm25.build(texts, PLAIN), "run") == []


def test_settings_that_do_not_exist_name_their_key():
    with pytest.raises(UserError, match=r"retriever\.stemmer: no Snowball stemmer 'klingon'.*english"):
        Bm25.build(PASSAGES, RetrieverSection(stemmer="klingon"))
    with pytest.raises(UserError, match=r"retriever\.stopwords: no stop word list 'klingon'"):
        Bm25.build(PASSAGES, RetrieverSection(stopwords="klingon"))


@pytest.mark.parametrize("texts", [[""], ["", " "], ["?!"], ["the", "and"]])
def test_passages_without_a_word_are_an_error(texts):
    with pytest.raises(UserError, match="no passage has a word to search for"):
        Bm25.build(texts, ENGLISH)


letters = st.text(alphabet="abcdé ß.!\n", max_size=30)
anything = st.text(max_size=60) | st.text(st.characters(), max_size=20) | letters


@given(st.lists(anything, max_size=12), st.lists(anything, min_size=1, max_size=4), st.integers(1, 30), st.booleans())
@example(
    ["\ud800 half a pair", "नमस्ते दुनिया", "你好 世界", "\x00\x00", "ﬁ ﬂ", "İstanbul"],
    ["İSTANBUL half", "\ud800"],
    3,
    True,
)
@example(["word " * 50_000, "x" * 100_000], ["word " * 20_000 + "x" * 100_000], 5, False)
def test_every_search_is_sorted_unique_in_range_and_positive(texts, queries, k, english):
    section = ENGLISH if english else PLAIN
    texts = [*texts, "anchor stone"]
    index = Bm25.build(texts, section)
    for query, hits in zip([*queries, "stone"], index.search([*queries, "stone"], k), strict=True):
        scores, positions = hits.scores.tolist(), hits.positions.tolist()
        assert len(positions) == len(set(positions)) <= k
        assert all(0 <= place < len(texts) for place in positions)
        assert all(score > 0 and math.isfinite(score) for score in scores)
        assert sorted(zip((-score for score in scores), positions, strict=True)) == [
            (-score, place) for score, place in zip(scores, positions, strict=True)
        ]
        expected = reference(texts, query, section)
        assert len(positions) == min(k, sum(score > 0 for score in expected))
        # Twenty thousand additions in float32 are off by 2e-4.
        assert scores == pytest.approx([expected[place] for place in positions], rel=1e-3)


@given(st.lists(letters, min_size=1, max_size=8), letters, letters)
def test_scores_of_a_query_are_the_sum_over_its_parts(texts, one, other):
    index = Bm25.build([*texts, "anchor"], PLAIN)
    assert index.scores(f"{one} {other}") == pytest.approx(index.scores(one) + index.scores(other), rel=1e-4)
