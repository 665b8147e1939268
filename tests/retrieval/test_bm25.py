"""BM25 against a reference written down from the formula, and what must hold for any text."""

from __future__ import annotations

import math
import random
import tempfile
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
import Stemmer
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import example, given
from hypothesis import strategies as st

from kard.data.normal import folded, loose
from kard.errors import UserError
from kard.recipe.sections import RetrieverSection
from kard.retrieval import building
from kard.retrieval.bm25 import Bm25, best_passages
from kard.retrieval.building import build_bm25
from kard.retrieval.retriever import Hits

PLAIN = RetrieverSection(language=None)
ENGLISH = RetrieverSection(language="english")

SCRIPTS = ("scx=Han", "scx=Hiragana", "scx=Katakana", "Hangul", "Thai", "Lao", "Khmer", "Myanmar")
PAIRED = "[[" + "".join(rf"\p{{{name}}}" for name in SCRIPTS) + r"]&&[\p{L}\p{M}]]"

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


def built(texts: list[str], section: RetrieverSection) -> Bm25:
    """An index in a folder of its own, which is gone when nobody holds the index."""
    folder = tempfile.TemporaryDirectory()
    build_bm25(texts, section, Path(folder.name))
    index = Bm25(Path(folder.name), section)
    weakref.finalize(index, folder.cleanup)
    return index


def every_score(index: Bm25, query: str) -> np.ndarray:
    [scores] = index.scores([query], [range(index.size)])
    return scores


def tokens(text: str, section: RetrieverSection) -> tuple[list[str], list[str]]:
    """Words and pairs of characters, and the single characters of pairs, by which an index is found as well."""
    words, singles = [], []
    for pairs, word in regex.findall(rf"({PAIRED}+)|([[\p{{L}}\p{{N}}\p{{M}}_]--{PAIRED}]+)", folded(text), regex.V1):
        words += [pairs[i : i + 2] for i in range(max(1, len(pairs) - 1))] if pairs else [word] if len(word) > 1 else []
        singles += pairs if len(pairs) > 1 else ""
    words = [word for word in words if not (section.language and word in STOPWORDS_EN)]
    stem = Stemmer.Stemmer(section.language).stemWord if section.language else str
    return [loose(stem(word)) for word in words], singles


def reference(texts: list[str], query: str, section: RetrieverSection) -> list[float]:
    """Lucene's BM25 (Kamphuis et al. 2020, table 1, "Lucene (accurate)") in double precision, a score a passage."""
    cut = [tokens(text, section) for text in texts]
    counts = [Counter(words + singles) for words, singles in cut]
    lengths = [len(words) for words, _ in cut]
    average = sum(lengths) / len(texts)
    scores = [0.0] * len(texts)
    for word in tokens(query, section)[0]:
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


@pytest.mark.parametrize("k1_b", [(0.9, 0.4), (1.7, 0.9), (0.9, 0.0)])
@pytest.mark.parametrize("section", [PLAIN, ENGLISH])
@pytest.mark.parametrize(
    "query",
    ["cat", "cats and dogs", "cat cat dog", "the current of a conductor", "CAFÉ naïve", "cat zebra", "mice mat law"],
)
def test_scores_are_the_references(query, section, k1_b):
    section = section.model_copy(update=dict(zip(("k1", "b"), k1_b, strict=True)))
    as_reference(found(built(PASSAGES, section), query), reference(PASSAGES, query, section))


def test_thousand_passages_rank_as_the_reference():
    chance = random.Random(3)
    words = [f"word{number}" for number in range(200)]
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 40))) for _ in range(1000)]
    index = built(texts, PLAIN)
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
    index = built(texts, PLAIN)
    assert [place for place, _ in found(index, "red")] == [0, 2, 4]
    for k in (1, 2, 3, 4):
        assert [place for place, _ in found(index, "stone", k)] == [0, 1, 2, 4][:k]


def pairs(hits):
    return list(zip((-hits.scores).tolist(), hits.positions.tolist(), strict=True))


@given(st.lists(st.sampled_from([0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 9))
def test_of_many_equal_scores_the_first_are_kept(scores, k, window):
    """One term, whose postings have these scores."""
    data, indices = np.array(scores, dtype=np.float32), np.arange(len(scores), dtype=np.int32)
    indptr, one = np.array([0, len(scores)]), np.ones(1, dtype=np.float32)
    every = np.empty(0, dtype=np.int64)
    hits = best_passages(np.zeros(1, np.int64), one, data, indices, indptr, len(scores), k, window, every)
    ranked = sorted((-score, place) for place, score in enumerate(scores))[:k]
    assert pairs(Hits.ordered(*hits)) == ranked


def test_a_single_character_leaves_all_other_scores_as_they_are():
    """Postings of single characters are beside the others: no length and no score of a word or a pair is changed."""
    index = built(["red 茶树 stone", "blue 茶 stone", "a red lamp"], PLAIN)
    pairs = built(["red aabb stone", "blue aa stone", "a red lamp"], PLAIN)  # as many terms, none of them single
    assert [place for place, _ in found(index, "茶")] == [0, 1]
    for query, other in (("red stone", "red stone"), ("茶树", "aabb")):
        assert every_score(index, query) == pytest.approx(every_score(pairs, other))


def test_unknown_words_and_empty_queries_find_nothing():
    index = built(PASSAGES, ENGLISH)
    for query in ("zebra quagga", "", "   ", "?!", "the and of", "x"):
        assert found(index, query) == []
        assert not every_score(index, query).any()
    assert index.search([], 5) == []


def test_unknown_words_beside_known_ones_change_nothing():
    index = built(PASSAGES, ENGLISH)
    assert found(index, "quagga cat zebra") == found(index, "cat")


def test_a_repeated_query_word_counts_twice():
    index = built(PASSAGES, PLAIN)
    assert every_score(index, "cat cat") == pytest.approx(2 * every_score(index, "cat"), rel=1e-6)


def test_more_passages_asked_for_than_there_are():
    index = built(PASSAGES, ENGLISH)
    assert found(index, "cat", 10_000) == found(index, "cat", len(PASSAGES))
    assert found(index, "cat", 0) == []


def test_k_is_a_prefix_of_a_longer_search():
    index = built(PASSAGES, ENGLISH)
    whole = found(index, "cat mat dog law")
    for k in range(1, len(whole) + 1):
        assert found(index, "cat mat dog law", k) == whole[:k]


def test_scores_are_those_of_the_search():
    index = built(PASSAGES, ENGLISH)
    every = every_score(index, "cat mat")
    assert every.shape == (len(PASSAGES),)
    assert {place: score for place, score in enumerate(every.tolist()) if score > 0} == dict(found(index, "cat mat"))


def test_a_batch_is_one_query_after_the_other():
    index = built(PASSAGES, ENGLISH)
    queries = ["cat", "", "law of voltage", "zebra", "cat", "dogs chase"] * 20
    together = index.search(queries, 4)
    for query, hits in zip(queries, together, strict=True):
        [alone] = index.search([query], 4)
        assert np.array_equal(hits.positions, alone.positions)
        assert np.array_equal(hits.scores, alone.scores)


@pytest.mark.parametrize("section", [PLAIN, ENGLISH, RetrieverSection(language="german")])
def test_a_saved_index_finds_the_same(tmp_path, section):
    index = built(PASSAGES, section)
    build_bm25(PASSAGES, section, tmp_path / "Verzeichnis é")
    loaded = Bm25(tmp_path / "Verzeichnis é", section)
    assert loaded.analysis.language == section.language
    assert loaded.size == len(PASSAGES)
    for query in ("cat", "Cats and dogs", "café", "the", ""):
        assert found(loaded, query) == found(index, query)


@pytest.mark.parametrize("change", [{"k1": 1.2}, {"b": 0.75}, {"language": None}, {"analyzer": "lucene"}])
def test_an_index_with_other_settings_is_not_searched(tmp_path, change):
    build_bm25(PASSAGES, ENGLISH, tmp_path)
    [key] = change
    with pytest.raises(UserError, match=rf"built with retriever\.{key} .*Run the recipe again"):
        Bm25(tmp_path, ENGLISH.model_copy(update=change))


def test_an_index_with_a_torn_file_is_named(tmp_path):
    build_bm25(PASSAGES, ENGLISH, tmp_path)
    (tmp_path / "data.f32").write_bytes((tmp_path / "data.f32").read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged"):
        Bm25(tmp_path, ENGLISH)


@pytest.mark.parametrize("count", [1, 6, 7, 8, 23])
def test_blocks_merged_in_pieces_are_the_index_of_one_block(tmp_path, monkeypatch, count):
    chance = random.Random(count)
    texts = [" ".join(chance.choices(["red", "blue", "stone", "lamp", "the", "9"], k=5)) for _ in range(count)]
    build_bm25(texts, ENGLISH, tmp_path / "whole")
    monkeypatch.setattr(building, "BLOCK", 3)
    monkeypatch.setattr(building, "_MERGED", 5)
    build_bm25(texts, ENGLISH, tmp_path / "pieces")
    for file in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "pieces" / file.name).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "pieces").iterdir())) == len(list((tmp_path / "whole").iterdir()))


def test_a_killed_build_goes_on_with_the_blocks_that_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "BLOCK", 2)
    texts = [f"red stone number{number}" for number in range(9)]
    build_bm25(texts, PLAIN, tmp_path / "straight")

    class Dying(list):
        def __getitem__(self, key):
            if isinstance(key, slice) and key.start >= 4:
                raise KeyboardInterrupt
            return super().__getitem__(key)

    with pytest.raises(KeyboardInterrupt):
        build_bm25(Dying(texts), PLAIN, tmp_path / "killed")
    assert (tmp_path / "killed" / "runs" / "0").exists()

    class Late(list):
        def __getitem__(self, key):
            assert not (isinstance(key, slice) and key.start == 0), "the first block was read again"
            return super().__getitem__(key)

    build_bm25(Late(texts), PLAIN, tmp_path / "killed")
    for file in (tmp_path / "straight").iterdir():
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes()


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([1, 3, 40]))
def test_windows_change_nothing(seed, k, window):
    """Windows so small that the heap is full early."""
    chance = random.Random(seed)
    words = ["the", "of", "a", *(f"w{number}" for number in range(12))]
    weights = [30, 20, 15, *([1] * 12)]
    texts = [" ".join(chance.choices(words, weights, k=chance.randint(1, 12))) for _ in range(60)]
    index = built(texts, RetrieverSection(language=None, b=0.75))
    query = " ".join(chance.choices(words, k=8))
    [whole] = index.search([query], 60)
    scores = every_score(index, query)
    ranked = sorted((-score, place) for place, score in enumerate(scores.tolist()) if score > 0)
    assert pairs(whole) == ranked
    terms = index._queries([query])[:2]
    allowed = [place for place in range(len(texts)) if chance.random() < 0.2]
    for some, expected in (
        ([], ranked),
        (allowed, [row for row in ranked if row[1] in allowed] if allowed else ranked),
    ):
        among = np.array(some, dtype=np.int64)
        hits = best_passages(*terms, *index._postings, index.size, k, window, among)
        assert pairs(Hits.ordered(*hits)) == expected[:k]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
def test_the_best_of_the_allowed_are_those_of_all_without_the_others(share):
    """To the last bit."""
    chance = random.Random(1)
    words = ["the", "of", "a", *(f"w{number}" for number in range(40))]
    texts = [" ".join(chance.choices(words, [300, 200, 150, *([5] * 40)], k=20)) for _ in range(3000)]
    index = built(texts, RetrieverSection(language=None))
    allowed = np.array([chance.random() < share for _ in texts])
    queries = [" ".join(chance.choices(words, k=length)) for length in (1, 4, 12)]
    for whole, hits in zip(index.search(queries, 3000), index.search(queries, 10, allowed), strict=True):
        left = allowed[whole.positions]
        assert hits.positions.tolist() == whole.positions[left][:10].tolist()
        assert hits.scores.tobytes() == whole.scores[left][:10].tobytes()


def test_the_stemmer_joins_forms_and_null_keeps_them_apart():
    texts = ["running", "runs", "a walk"]
    assert [place for place, _ in found(built(texts, ENGLISH), "run")] == [0, 1]
    assert found(built(texts, PLAIN), "run") == []


@pytest.mark.parametrize("texts", [[""], ["", " "], ["?!"], ["the", "and"]])
def test_passages_without_a_word_are_an_error(texts):
    with pytest.raises(UserError, match="no passage has a word to search for"):
        built(texts, ENGLISH)


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
    index = built(texts, section)
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
    index = built([*texts, "anchor"], PLAIN)
    assert every_score(index, f"{one} {other}") == pytest.approx(
        every_score(index, one) + every_score(index, other), rel=1e-4
    )
