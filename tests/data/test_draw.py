"""The draw: every document has its turn, splits share none, and what nobody can ask about is left out with a reason."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from kard.data.draw import draw, unfit_for_questions
from kard.data.passage import Passage, Passages, read_passages, write_passages
from kard.errors import UserError

KINDS = ["multiple_choice", "yes_no", "short", "comparison", "unanswerable"]
SENTENCE = "The keeper of the lamp walks along the harbour wall every evening and counts the ships that have come home."
SIZES = {"train": 60, "dev": 10, "test": 20}


@pytest.fixture
def knowledge(tmp_path):
    def make(sizes: list[int], text: str = SENTENCE) -> Passages:
        path = tmp_path / "passages.jsonl"
        names = [(f"d{n}", k) for n, size in enumerate(sizes) for k in range(size)]
        rows = (Passage(f"{d}#{k + 1}" if k else d, "", f"{text} {d} {k}.", d, "s") for d, k in names)
        write_passages(path, rows)
        return read_passages(path)

    return make


def documents(passages: Passages, items, split: str) -> Counter[str]:
    return Counter(passages[place].document for item in items if item.split == split for place in item.places)


def test_splits_share_no_document_and_get_what_they_ask_for(knowledge):
    passages = knowledge([5] * 40)
    drawn = draw(passages, SIZES, KINDS, 3)
    assert Counter(item.split for item in drawn.items) == SIZES
    assert drawn.documents == {"test": 8, "dev": 4, "train": 28}
    assert drawn.stretch == 0
    names = {split: set(documents(passages, drawn.items, split)) for split in SIZES}
    assert not any(names[a] & names[b] for a, b in (("train", "test"), ("train", "dev"), ("dev", "test")))


def test_every_document_has_its_turn_before_one_has_two(knowledge):
    passages = knowledge([30, *[3] * 19])
    drawn = draw(passages, {"train": 48, "test": 4}, ["short"], 0)
    for split in ("train", "test"):
        counts = documents(passages, drawn.items, split)
        assert max(counts.values()) - min(counts.values()) <= 1 or min(counts.values()) == 3
    assert len(documents(passages, drawn.items, "train")) == 16


def test_kinds_are_as_frequent_and_a_passage_has_none_twice(knowledge):
    drawn = draw(knowledge([2] * 30), {"train": 130, "test": 40}, KINDS, 1)
    by_split = {split: Counter(i.kind for i in drawn.items if i.split == split) for split in ("train", "test")}
    assert "unanswerable" not in by_split["train"]
    assert set(by_split["test"]) == set(KINDS)
    for counts in by_split.values():
        assert max(counts.values()) - min(counts.values()) <= 2
    assert max(Counter((i.kind, i.places[0]) for i in drawn.items).values()) == 1
    wanted = Counter(item.wanted for item in drawn.items if item.kind == "yes_no")
    assert abs(wanted["yes"] - wanted["no"]) <= 2


def test_a_kind_that_stands_twice_is_asked_for_twice_as_often(knowledge):
    drawn = draw(knowledge([4] * 40), {"train": 90, "test": 10}, ["short", "short", "yes_no"], 1)
    counts = Counter(item.kind for item in drawn.items if item.split == "train")
    assert counts == {"short": 60, "yes_no": 30}


def test_asking_for_more_leaves_what_was_asked_for(knowledge):
    passages = knowledge([6] * 30)
    few = draw(passages, {"train": 20, "test": 10}, ["short", "yes_no"], 1).items
    more = draw(passages, {"train": 50, "test": 20}, ["short", "yes_no"], 1).items
    assert set(few) < set(more)
    assert draw(passages, {"train": 20, "test": 10}, ["short", "yes_no"], 2).items != few


def test_comparisons_are_of_two_documents_of_one_split_and_others_surround_a_passage(knowledge):
    passages = knowledge([7] * 20)
    drawn = draw(passages, SIZES, ["comparison", "unanswerable"], 1)
    for item in drawn.items:
        named = {passages[place].document for place in item.places}
        assert len(named) == (2 if item.kind == "comparison" else 1)
        if item.kind == "unanswerable":
            assert {passages[place].document for place in item.others} == named
            assert not set(item.others) & set(item.places)


@pytest.mark.parametrize(("sizes", "stretch"), [([400], 20), ([30, 30], 3), ([7], 1)])
def test_few_documents_are_split_by_stretches(knowledge, sizes, stretch):
    passages = knowledge(sizes)
    drawn = draw(passages, {"train": 6, "test": 2}, ["short"], 0)
    assert drawn.stretch == stretch
    train, test = ({i.places[0] // stretch for i in drawn.items if i.split == split} for split in ("train", "test"))
    assert train
    assert test
    assert not train & test


def test_fewer_are_drawn_where_every_passage_has_had_every_kind(knowledge):
    drawn = draw(knowledge([1] * 10), {"train": 500, "test": 500}, ["short", "yes_no"], 0)
    assert Counter(item.split for item in drawn.items) == {"train": 16, "test": 4}


UNFIT = {
    "shorter than 20 words": "Only a few words stand here.",
    "tables of contents or of numbers": "Introduction .... 1 Methods .... 4 Results .... 9 Discussion of all that .... 14 "
    "Acknowledgements and thanks .... 20 References and further reading .... 22 Index .... 30",
    "licences and imprints": "Copyright 2020 by the makers. All rights reserved. No part of this may be reproduced in any form "
    "without permission in writing from those who made it in the first place.",
    "lists of links": "See also https://a.example https://b.example www.c.example and https://d.example for more of the same "
    "things that one may want to read on a day like this one when it rains.",
    "without a sentence": "apples pears plums cherries bread butter cheese milk eggs flour sugar salt pepper oil vinegar rice "
    "pasta beans lentils carrots onions garlic potatoes",
}


@pytest.mark.parametrize("reason", UNFIT)
def test_what_nobody_can_ask_about_is_known_by_its_reason(reason):
    assert unfit_for_questions(UNFIT[reason]) == reason


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        "Copyright law protects the works of authors. It was first written down in England in 1710, and today nearly all "
        "countries have such a law, which ends some decades after the death of the author.",
        "Die Hafenmauer wurde 1872 gebaut und ist 340 Meter lang; an ihrem Ende steht ein Turm mit einer Lampe, die jeden Abend "
        "brennt, bis alle Schiffe wieder da sind.",
        "長い文章は二十語より多い。港の壁は一八七二年に建てられ、長さは三百四十メートルである。その端には塔があり、毎晩灯がともる。",
    ],
)
def test_prose_of_any_language_is_asked_about(text):
    assert unfit_for_questions(text) == ""


@pytest.mark.parametrize(
    ("sizes", "text", "says"),
    [
        ([1], "Three words here", r"0 of 1 passages can be asked about, two are needed \(1 shorter than 20 words\)"),
        ([1], SENTENCE, "1 of 1 passages can be asked about"),
    ],
)
def test_too_little_to_ask_about(knowledge, sizes, text, says):
    with pytest.raises(UserError, match=says):
        draw(knowledge(sizes, text), {"train": 1, "test": 1}, ["short"], 0)


def test_two_passages_are_too_few_for_three_splits(knowledge):
    with pytest.raises(
        UserError, match=r"too few to keep training and test apart\. Add documents, or set questions.dev_size"
    ):
        draw(knowledge([2]), {"train": 1, "dev": 1, "test": 1}, ["short"], 0)


def test_of_more_passages_than_can_be_looked_at_some_are(knowledge, monkeypatch):
    monkeypatch.setattr("kard.data.draw.MOST_PASSAGES", 50)
    passages = knowledge([1] * 500)
    drawn = draw(passages, {"train": 500, "test": 500}, ["short"], 0)
    assert len(drawn.items) == 50
    assert max(item.places[0] for item in drawn.items) > 250


def test_a_large_document_is_left_to_training(knowledge):
    passages = knowledge([100, *[2] * 19])
    for seed in range(8):
        drawn = draw(passages, {"train": 30, "dev": 4, "test": 8}, ["short"], seed)
        assert documents(passages, drawn.items, "train")["d0"]


def test_seeds_draw_other_documents(knowledge):
    passages = knowledge([2] * 30)
    seen = [frozenset(documents(passages, draw(passages, SIZES, KINDS, seed).items, "test")) for seed in range(4)]
    assert all(a != b for a, b in product(seen, seen) if a is not b)
