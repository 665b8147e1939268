"""Texts become terms: words of any script, Lucene's English analyzer, languages detected only where they are clear."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kard.errors import UserError
from kard.recipe import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for, detect_language

STANDARD = Analysis()
LUCENE = Analysis("lucene", "porter", "english")


def words(text: str, analysis: Analysis = STANDARD) -> list[str]:
    numbers, _, found = analysis._words([text])
    return [found[number] for number in numbers]


def same(one: str, other: str, analysis: Analysis) -> bool:
    return analysis.terms([one])[0].tolist() == analysis.terms([other])[0].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The CAFÉ of_Zürich's x 1990s", ["the", "café", "of_zürich", "1990s"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("你好世界，好。a好b", ["你好", "好世", "世界", "好", "好"]),
        ("e\u0301tat naïve", ["e\u0301tat", "naïve"]),
        ("3,000.5 a:b", ["000"]),
        ("", []),
        ("\ud800\x00?!", []),
    ],
)
def test_standard_words(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zürich's x 1990s don't", ["zürich's", "x", "1990s", "don't"]),
        ("U.S. e.g. 3,000.5 a:b x_1 __ 'a' 1.a", ["u.s", "e.g", "3,000.5", "a:b", "x_1", "a", "1", "a"]),
        ("你好 カタカナ 한국어", ["你", "好", "カタカナ", "한국어"]),
    ],
)
def test_lucene_words(text, expected):
    assert words(text, LUCENE) == expected


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        ("Ohm's", "ohm", True),
        ("running", "runs", True),
        ("possibly", "possible", True),
        ("psychology", "psycholog", True),
        ("biology", "biolog", False),
        ("as", "a", True),
        ("is", "i", False),
    ],
)
def test_lucene_stems(one, other, joined):
    """As Porter's own Java version, with its two departures from the paper; "as" and "a" are stop words."""
    assert same(one, other, LUCENE) == joined


@given(st.lists(st.text(max_size=40), max_size=6))
def test_texts_together_are_the_texts_alone(texts):
    for analysis in (STANDARD, LUCENE):
        digests, numbers, bounds = analysis.terms(texts)
        assert len(bounds) == len(texts) + 1
        for place, text in enumerate(texts):
            own, own_numbers, _ = analysis.terms([text])
            assert digests[numbers[bounds[place] : bounds[place + 1]]].tolist() == own[own_numbers].tolist()


def test_shared_words_are_marked_where_they_stand():
    analysis = Analysis("standard", "english", "english")
    text = "The Cats of Ohm's house run, running."
    assert [text[a:b] for a, b in analysis.shared(text, "a cat that runs the")] == ["Cats", "run", "running"]


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["The lamp of the harbour is grey."] * 3, "english"),
        (["Der Hund bellt laut im Garten, und die Katze schläft.", "Das Haus ist sehr groß."], "german"),
        (["x 1 2 3"], None),
        (["", " "], None),
        ([], None),
    ],
)
def test_a_language_is_detected_only_where_it_is_clear(texts, language):
    assert detect_language(texts) == language


def test_two_languages_are_none():
    english = ["The dog barks in the garden, and the cat sleeps in the house all day long."] * 30
    german = ["Der Hund bellt laut im Garten, und die Katze schläft den ganzen Tag im Haus."] * 30
    assert detect_language(english + german) is None


def test_what_the_recipe_names_wins_over_detection(capsys):
    german = ["Der Hund bellt laut im Garten, und die Katze schläft."] * 3
    assert analysis_for(RetrieverSection(), german) == Analysis("standard", "german", "german")
    assert "language german" in capsys.readouterr().err
    assert analysis_for(RetrieverSection(stemmer=None), german) == Analysis("standard", None, "german")
    assert analysis_for(RetrieverSection(stemmer="english", stopwords=None), german) == Analysis("standard", "english")
    assert analysis_for(RetrieverSection(analyzer="lucene"), german) == LUCENE


def test_unknown_names_are_errors():
    with pytest.raises(UserError, match=r"retriever\.stemmer: no Snowball stemmer 'klingon'"):
        Analysis("standard", "klingon")
    with pytest.raises(UserError, match=r"retriever\.stopwords: no stop word list 'klingon'"):
        Analysis("standard", None, "klingon")
