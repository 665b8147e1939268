"""Which sentence of which passage says what an explanation says."""

from __future__ import annotations

import time

import pytest

from kard.citations import cite, pieces, with_marks
from kard.retrieval.analysis import Analysis

ENGLISH = Analysis("standard", "english")
COAL = {
    "id": "c",
    "title": "Coal",
    "text": "Coal is a black rock. It formed 300 million years ago, in the Carboniferous.",
}
IRON = {"id": "i#2", "title": "Iron", "text": "In moist air, iron rusts. It is not found pure."}
POPE = {"id": "p", "title": "Pope", "text": "John Paul II was born in Wadowice in 1920."}


def sources(sentence: str, *passages: dict[str, str], analysis: Analysis = ENGLISH) -> list[tuple[int, str]]:
    [citation] = cite(sentence, passages, analysis)
    return [(source.number, source.sentence) for source in citation.sources]


def test_each_sentence_has_its_own_sources():
    rationale = "Iron rusts in moist air.  Coal is a black rock! Nobody knows gold."
    first, second, third = cite(rationale, [COAL, IRON], ENGLISH)
    assert first.row() == {
        "sentence": "Iron rusts in moist air.",
        "supported": True,
        "sources": [{"number": 2, "passage": "i#2", "sentence": "In moist air, iron rusts."}],
    }
    assert (second.mark, third.mark) == ("[1]", "[unsupported]")
    assert not third.supported
    assert with_marks(rationale, [first, second, third]) == (
        "Iron rusts in moist air. [2]  Coal is a black rock! [1] Nobody knows gold. [unsupported]"
    )


def test_several_passages_say_the_same_each_with_its_best_sentence():
    other = {**COAL, "id": "o", "text": "Every rock is old. Coal is a rock, and it is black. Coal is a black rock."}
    [citation] = cite("Coal is a black rock.", [COAL, IRON, other], ENGLISH)
    assert citation.mark == "[1][3]"
    assert citation.sources[1].sentence == "Coal is a rock, and it is black."  # the first of equals


@pytest.mark.parametrize(
    ("sentence", "says"),
    [
        ("Coal formed in the Carboniferous.", True),  # its passage's title says what "it" is
        ("Coals are black rocks.", True),  # inflected
        ("Coal formed in the Permian.", False),  # a name of the passage's kind, but another one
        ("Coal formed 200 million years ago, in the Carboniferous.", False),
        ("Coal formed 300 million years ago, in the Carboniferous.", True),
        ("Coal is not a black rock.", False),
        ("Coal isn't a black rock.", False),
        ("Coal.", False),  # the title alone says nothing
        ("Coal is a black metal that burns.", False),
    ],
)
def test_names_numbers_and_denials_must_be_in_the_source(sentence, says):
    assert bool(sources(sentence, COAL)) == says


def test_what_is_denied_in_both_is_supported_and_what_is_denied_in_one_is_not():
    assert sources("Iron is not found pure.", IRON) == [(1, "It is not found pure.")]
    assert sources("Iron is found pure.", IRON) == []


def test_long_sentences_may_have_a_word_of_their_own_but_no_number():
    text = "The old grey stone bridge near the village was built of heavy blocks by 12 patient masons."
    bridge = {"id": "b", "title": "Bridge", "text": text}
    assert sources(text.replace("patient", "skilled"), bridge)
    assert not sources(text.replace("12", "13"), bridge)
    assert not sources(text.replace("12", "1"), bridge)  # a single digit counts as well


def test_thousands_are_the_same_with_and_without_a_separator():
    city = {"id": "t", "title": "Town", "text": "The town has 12,500 inhabitants in 3.5 km2."}
    assert sources("The town has 12500 inhabitants.", city)
    assert not sources("The town has 1,250 inhabitants.", city)
    assert not sources("The town has 12500 inhabitants in 35 km2.", city)


def test_other_languages_and_scripts():
    ship = {"id": "s", "title": "船", "text": "北方的船舶是绿色的。它很大。"}
    assert sources("北方的船舶是绿色的。", ship, analysis=Analysis()) == [(1, "北方的船舶是绿色的。")]
    assert not sources("南方的城堡是红色的。", ship, analysis=Analysis())
    german = Analysis("standard", "german")
    iron = {"id": "e", "title": "Eisen", "text": "Eisen rostet an feuchter Luft. Gold rostet nicht."}
    assert sources("An feuchter Luft rostet Eisen.", iron, analysis=german)
    assert not sources("Gold rostet.", iron, analysis=german)
    assert not sources("Eisen rostet an trockener Luft nicht.", iron, analysis=german)


def test_nothing_is_cited_where_nothing_was_read_or_said():
    assert cite("Coal is a rock.", [], ENGLISH) == []
    assert cite("", [COAL], ENGLISH) == []
    listed = cite("1. Coal is a black rock.\n2. …", [COAL], ENGLISH)
    assert [citation.sentence for citation in listed] == ["Coal is a black rock."]


def test_a_passage_without_title_or_text():
    assert sources("Coal is a black rock.", {**COAL, "title": ""}, {**COAL, "text": ""}) == [
        (1, "Coal is a black rock.")
    ]


def test_pieces_are_the_explanation_itself():
    rationale = " 1. Coal is a black rock.\n\nCoal is a black rock. So?"
    cited = cite(rationale, [COAL], ENGLISH)
    parts = list(pieces(rationale, cited))
    assert "".join(text for text, _ in parts) == rationale
    assert [text for text, citation in parts if citation and citation.supported] == ["Coal is a black rock."] * 2
    assert list(pieces("Nothing.", [])) == [("Nothing.", None)]


def test_it_costs_a_few_milliseconds():
    passages = [{**POPE, "text": POPE["text"] * 10, "id": str(number)} for number in range(3)]
    rationale = "John Paul II was born in Wadowice in 1920. He was a pope. He was old. " * 2
    cite(rationale, passages, ENGLISH)  # the first one compiles the scanner
    times = []
    for _ in range(5):
        start = time.perf_counter()
        cite(rationale, passages, ENGLISH)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.025  # 5 ms on an idle core
