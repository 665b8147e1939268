"""Cutting loses nothing but white space, keeps to the limit, and respects sentences."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kard.data import cutting as passages
from kard.data.cutting import sentences

texts = st.text(max_size=200) | st.text(alphabet='Ab. !?\n"”)。！7é', max_size=120)
limits = st.integers(1, 12)


def cut(text: str, words: int) -> list[str]:
    return [piece for _, piece in passages.cut(text, words)]


def squeezed(text: str) -> str:
    return "".join(text.split())


@given(texts)
@example("A. B. C. Dr. Who. “Yes.” (No.) U.S. Navy\n\n\nMr.\nSmith。你好！」 x")
def test_sentences_lose_nothing_but_white_space(text):
    pieces = sentences(text)
    assert "".join(map(squeezed, pieces)) == squeezed(text)
    assert all(piece and piece == piece.strip() for piece in pieces)
    assert not any("\n" in piece for piece in pieces)


@given(texts, limits)
def test_pieces_lose_nothing_but_white_space_and_keep_to_the_limit(text, words):
    pieces = cut(text, words)
    assert squeezed("".join(pieces)) == squeezed(text)
    assert all(0 < len(piece.split()) <= words for piece in pieces)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(9, 40))
def test_a_sentence_that_fits_is_never_cut(lengths, words):
    whole = [f"W{number} " + "word " * (length - 1) for number, length in enumerate(lengths)]
    whole = [f"{sentence.strip()}." for sentence in whole]
    pieces = cut(" ".join(whole), words)
    assert [sentence for piece in pieces for sentence in sentences(piece)] == whole
    # Two neighbours would not have fitted into one: no more than twice as many pieces as words need, and one.
    assert len(pieces) <= 2 * -(-sum(lengths) // words) + 1


@given(texts, limits)
def test_cutting_a_piece_again_changes_nothing(text, words):
    for piece in cut(text, words):
        assert len(cut(piece, words)) == 1


def test_a_text_within_the_limit_stays_whole():
    text = "One two three. Four five.  Six"
    assert cut(text, 6) == ["One two three. Four five. Six"]


def test_pieces_are_of_similar_length():
    text = " ".join(f"S{number} is five words long." for number in range(21))
    assert [len(piece.split()) for piece in cut(text, 100)] == [55, 50]


def test_a_sentence_beyond_the_limit_is_cut_between_words():
    words = [f"W{number}" for number in range(25)]
    assert cut(" ".join(words), 10) == [" ".join(words[:10]), " ".join(words[10:20]), " ".join(words[20:])]
    assert cut("Short one. " + " ".join(words), 10)[0] == "Short one."


def test_what_is_too_long_for_a_word_is_cut_all_the_same():
    assert [len(piece) for piece in cut("x" * 3500, 2)] == [2000, 1500]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t ", "\u3000"])
def test_nothing_gives_nothing(text):
    assert sentences(text) == []
    assert cut(text, 5) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains. The sun hides.", ["It rains.", "The sun hides."]),
        ("Really?! Yes. No…", ["Really?!", "Yes.", "No…"]),
        ("He said “Go.” Then he left.", ["He said “Go.”", "Then he left."]),
        ("(It rains.) [Not here.] Elsewhere.", ["(It rains.)", "[Not here.]", "Elsewhere."]),
        ("It ends. “Quoted” words begin.", ["It ends.", "“Quoted” words begin."]),
        ("Born 1900. 1950 was better.", ["Born 1900.", "1950 was better."]),
        ("Sie kam. Übrigens ging er. Élan blieb.", ["Sie kam.", "Übrigens ging er.", "Élan blieb."]),
        ("Он пришёл. Она ушла.", ["Он пришёл.", "Она ушла."]),
        ("about 3.5 metres and v2.0 of it", ["about 3.5 metres and v2.0 of it"]),
        ("it ends. but small letters go on", ["it ends. but small letters go on"]),
        ("Dr. Smith met Mr. Jones. They spoke.", ["Dr. Smith met Mr. Jones.", "They spoke."]),
        ("J. R. R. Tolkien wrote. He sang.", ["J. R. R. Tolkien wrote.", "He sang."]),
        ("The U.S. Navy, e.g. Sailors, i.e. They.", ["The U.S. Navy, e.g. Sailors, i.e. They."]),
        ("Born c. 1900 at St. Ives. Died.", ["Born c. 1900 at St. Ives.", "Died."]),
        ("Firms such as Dubinc. They fail.", ["Firms such as Dubinc.", "They fail."]),
        ("A line\nanother line", ["A line", "another line"]),
        ("Mr.\nSmith", ["Mr.", "Smith"]),
        ("one\r\n\r\n\r\ntwo", ["one", "two"]),
        ("今天下雨。太阳不见了！真的？真的", ["今天下雨。", "太阳不见了！", "真的？", "真的"]),
        ("他说：“你好。”然后走了。", ["他说：“你好。”", "然后走了。"]),
        ("「はい！？」と言った。終わり", ["「はい！？」", "と言った。", "終わり"]),
    ],
)
def test_sentence_ends(text, expected):
    assert sentences(text) == expected


@pytest.mark.parametrize("unit", ["A. ", "Dr. No. ", "e.g. X ", ". ", ".\n", "。", "“", ".”) ", "word "])
def test_long_hostile_text_takes_no_quadratic_time(unit):
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    pieces = cut(text, 100)
    assert time.process_time() - start < 2
    assert squeezed("".join(pieces)) == squeezed(text)


def test_the_shortcut_for_abbreviations_is_the_look_at_the_whole_sentence():
    """Every abbreviation is found in whatever stands before it, and no longer word that ends like one is taken for it."""
    for short in ("Mr", "Prof", "Capt", "e.g", "U.S", "c", "X"):
        for before in ("", " ", "(", "“", "and ", "a very long way before the "):
            assert sentences(f"{before}{short}. Then") == [f"{before}{short}. Then".strip()]
        assert len(sentences(f"some{short.lower()}. Then")) == 2
