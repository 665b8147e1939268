"""Texts become terms: words of any script, Lucene's English analyzer, languages detected only where they are clear."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kard.data.normal import composed, folded
from kard.errors import UserError
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for, detect_language

STANDARD = Analysis()
LUCENE = Analysis("lucene", "english")


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
        ("e\u0301tat naïve", ["état", "naïve"]),
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


@pytest.mark.parametrize(
    ("stored", "typed"),
    [
        ("ﬁrst eﬀect oﬃce", "first effect office"),
        ("Ｍｏｄｅｌ １２３", "model 123"),
        ("ｶﾀｶﾅ ｶﾞﾑ ｺｰﾄﾞ", "カタカナ ガム コード"),
        ("Gesamt\u00adkonzept Wort\u200bteil es\u00ad\ntate", "gesamtkonzept wortteil estate"),
        (
            "\u202bwo\u2060rd\ufeff ri\u200eght zero\u200cwidth jo\u200din va\ufe0friant nul\0l",
            "word right zerowidth join variant null",
        ),
        (unicodedata.normalize("NFD", "Zürich Café Hà Nội 홍차는 がぎ"), "zürich café hà nội 홍차는 がぎ"),
        ("كِتَابُ مـحـمـد أحمد إسلام ﻻﻡ ﷲ", "كتاب محمد احمد اسلام لام الله"),
        ("کتاب یک مدرسه", "كتاب يك مدرسة"),
        ("می\u200cخواهم ۱۳۹۹", "میخواهم 1399"),
        ("שָׁלוֹם", "שלום"),
        ("क़लम हिन्\u200dदी", "क़लम हिन्दी"),
        ("น้ํา", "น้ำ"),
        ("Straße GROẞ", "strasse gross"),
        ("ΟΔΟΣ", "οδος"),
        ("İstanbul ISPARTA ılık", "istanbul ısparta ilik"),
        ("x² H₂O km² Chapter Ⅳ 𝐌𝐨𝐝𝐞𝐥 ①②", "x2 h2o km2 chapter iv model 12"),
        ("⽤品 ㎏ 葛\U000e0100城", "用品 kg 葛城"),
        ("donʼt Hawaiʻi", "don't Hawai'i"),
        ("state‑of‑the‑art 1914–1918", "state-of-the-art 1914-1918"),
        ("“Boyle’s” law", '"boyle\'s" law'),
    ],
)
def test_a_text_is_found_however_it_is_stored_or_typed(stored, typed):
    one, other = (STANDARD.indexed([text])[0].tolist() for text in (stored, typed))
    assert one == other
    assert one
    assert STANDARD.shared(stored, typed)
    assert STANDARD.shared(typed, stored)


@pytest.mark.parametrize(
    ("stored", "typed"),
    [
        ("ﬁrst eﬀect", "first effect"),
        ("Gesamt\u00adkonzept", "gesamtkonzept"),
        ("Cafe\u0301", "café"),
        ("wo\u200brd", "word"),
    ],
)
def test_lucene_is_given_whole_words(stored, typed):
    """What makes a word unreadable for it too; all else is as in Lucene, which keeps km² and Ⅳ from km2 and IV."""
    assert same(stored, typed, LUCENE)
    assert not any(
        same(*pair, LUCENE) for pair in [("km²", "km2"), ("Ⅳ", "iv"), ("Ｍｏｄｅｌ", "model"), ("straße", "strasse")]
    )


@given(st.text(st.characters(exclude_categories=()), max_size=12))
@pytest.mark.parametrize("analysis", [STANDARD, LUCENE])
def test_only_texts_with_odd_characters_need_folding(analysis, text):
    fold = folded if analysis is STANDARD else composed
    assert words(text, analysis) == words(fold(text), analysis)
    assert fold(fold(text)) == fold(text)


@given(st.text("abzAZ09 .,-'’éüñçÉ–“”½°", max_size=30))
def test_english_in_composed_form_is_as_it_was(text):
    assert words(text) == re.findall(r"[^\W_]{2,}", text.lower())


def test_shared_words_are_marked_where_they_stand():
    analysis = Analysis("standard", "english")
    text = "The Cats of Ohm's house run, running."
    assert [text[a:b] for a, b in analysis.shared(text, "a cat that runs the")] == ["Cats", "run", "running"]


@pytest.mark.parametrize(
    ("text", "query", "marked"),
    [
        ("茶树生长在云南，茶。", "茶", ["茶", "茶"]),
        ("茶树生长在云南", "云南茶树", ["茶树", "云南"]),
        ("ｶﾞﾑを", "ガム", ["ｶﾞﾑ"]),
        ("Das Gesamt\u00ad\nkonzept", "gesamtkonzept", ["Gesamt\u00ad\nkonzept"]),
        ("नमस्ते दुनिया", "दुनिया", ["दुनिया"]),
        ("كِتَابُ الطَّبِيعَةِ", "كتاب", ["كِتَابُ"]),
        ("홍차는 인도에서", "홍차", ["홍차"]),
    ],
)
def test_what_is_found_is_marked(text, query, marked):
    assert [text[a:b] for a, b in STANDARD.shared(text, query)] == marked


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
    assert analysis_for(RetrieverSection(), german) == Analysis("standard", "german")
    assert "language german" in capsys.readouterr().err
    assert analysis_for(RetrieverSection(language=None), german) == STANDARD
    assert analysis_for(RetrieverSection(language="english"), german) == Analysis("standard", "english")
    assert analysis_for(RetrieverSection(analyzer="lucene"), german) == LUCENE


def test_an_unknown_language_is_an_error():
    with pytest.raises(
        UserError, match=r"retriever\.language: 'klingon' is not known\. Choose auto, null or one of: .*german"
    ):
        Analysis("standard", "klingon")


@pytest.mark.parametrize(("language", "stopped", "stemmed"), [("chinese", True, False), ("finnish", False, True)])
def test_a_language_has_what_there_is_for_it(language, stopped, stemmed):
    """bm25s has Chinese stop words, Snowball a Finnish stemmer, and neither the other."""
    analysis = Analysis("standard", language)
    assert (analysis.terms(["我们"])[0].tolist() == []) == stopped
    assert same("taloissa", "talo", analysis) == stemmed
