"""Splits: one question on one side, decided by the seed, and a test set that no other size changes."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kard.data.question import Question
from kard.data.questions import load_splits
from kard.data.splits import SPLITS, shuffled, split_by_text
from kard.errors import UserError
from kard.recipe.sections import QuestionsSection

MANY = [Question(f"q{number}", f"Is {number} even?", ("yes", "no"), number % 2) for number in range(200)]


def section(**sizes) -> QuestionsSection:
    return QuestionsSection(path="unused.jsonl", **sizes)


def ids(questions) -> list[str]:
    return [question.id for question in questions]


@given(
    st.lists(st.tuples(st.sampled_from("abcde"), st.permutations(["x", "y", "z"])), min_size=1, max_size=40),
    st.integers(0, 5),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_the_same_question_is_never_on_two_sides(drawn, seed, test_size, dev_size):
    """Neither case and punctuation nor the order of the choices makes another question of it."""
    dress = (str.upper, str.lower, "  {}?!".format, "“{}”".format)
    questions = [
        Question(f"q{number}", dress[number % 4](f"word {text}"), tuple(choices), choices.index("x"))
        for number, (text, choices) in enumerate(drawn)
    ]
    splits = split_by_text(questions, section(test_size=test_size, dev_size=dev_size), seed)
    texts = {name: {drawn[int(question.id[1:])][0] for question in splits[name]} for name in SPLITS}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert not texts["dev"] & texts["test"]
    used = [question for name in SPLITS for question in splits[name]]
    assert len(set(ids(used))) == len(used)
    assert set(used) <= set(questions)


def test_every_question_is_used_once_unless_a_size_says_otherwise():
    splits = split_by_text(MANY, section(), seed=0)
    assert {name: len(splits[name]) for name in SPLITS} == {"test": 40, "dev": 20, "train": 140}
    assert sorted(ids(MANY)) == sorted(ids(question for name in SPLITS for question in splits[name]))


def test_sizes_are_kept():
    splits = split_by_text(MANY, section(train_size=11, dev_size=7, test_size=13), seed=0)
    assert {name: len(splits[name]) for name in SPLITS} == {"train": 11, "dev": 7, "test": 13}


def test_the_seed_decides():
    assert split_by_text(MANY, section(), 0) == split_by_text(MANY, section(), 0)
    assert ids(split_by_text(MANY, section(), 0)["test"]) != ids(split_by_text(MANY, section(), 1)["test"])


def test_the_order_of_the_file_does_not():
    other = list(MANY)
    random.Random(1).shuffle(other)
    assert split_by_text(other, section(), 0) == split_by_text(MANY, section(), 0)


def test_other_sizes_never_change_the_test_set():
    whole = split_by_text(MANY, section(test_size=30, dev_size=10), 0)
    for sizes in ({"train_size": 5}, {"dev_size": 40}, {"train_size": 100, "dev_size": 1}):
        other = split_by_text(MANY, section(**{"test_size": 30, "dev_size": 10} | sizes), 0)
        assert other["test"] == whole["test"]
    smaller = split_by_text(MANY, section(test_size=30, dev_size=10, train_size=50), 0)
    assert smaller["dev"] == whole["dev"]
    assert smaller["train"] == whole["train"][:50]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"id": q.id, "question": q.question, "choices": q.choices, "answer": q.answer} for q in MANY[:20]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"test_size": 21}, r"questions\.test_size: 21 asked for, 20 there are"),
        ({"test_size": 20}, "no question is left for train"),
        ({"test_size": 10, "dev_size": 10}, "no question is left for train"),
        ({"train_size": 15}, r"questions\.train_size: 15 asked for, 14 there are"),
        ({"test_size": 10, "dev_size": 8, "train_size": 3}, r"questions\.train_size: 3 asked for, 2 there are"),
    ],
)
def test_sizes_too_large_are_an_error(file, sizes, complaint):
    with pytest.raises(UserError, match=complaint):
        load_splits(QuestionsSection(path=file, **sizes), 0)


def test_too_few_questions_for_a_test_are_an_error(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = ['{"id": "a", "question": "Why?", "answer": "so"}\n', '{"id": "b", "question": "How?", "answer": "so"}\n']
    for count, missing in ((1, "train"), (2, "test")):
        path.write_text("".join(rows[:count]), encoding="utf-8")
        with pytest.raises(UserError, match=f"q.jsonl: no question is left for {missing}"):
            load_splits(QuestionsSection(path=path, test_size=None if count == 2 else 1), 0)


def test_choices_are_shuffled_where_asked_for(file):
    before = load_splits(QuestionsSection(path=file), 0)
    after = load_splits(QuestionsSection(path=file, shuffle_choices=True), 0)
    for name in SPLITS:
        assert ids(before[name]) == ids(after[name])
        assert [q.answer_text for q in before[name]] == [q.answer_text for q in after[name]]
    assert any(before[name] != after[name] for name in SPLITS)


@given(
    st.lists(st.text(max_size=5), min_size=2, max_size=6, unique=True), st.data(), st.integers(), st.text(max_size=5)
)
def test_shuffling_keeps_the_answer(choices, data, seed, identity):
    question = Question(identity, "Why?", tuple(choices), data.draw(st.integers(0, len(choices) - 1)))
    other = shuffled(question, seed)
    assert sorted(other.choices) == sorted(choices)
    assert other.answer_text == question.answer_text
    assert other == shuffled(question, seed)


def test_shuffling_leaves_no_place_preferred():
    places = Counter(shuffled(Question(f"q{n}", "?", ("a", "b", "c", "d"), 0), 0).answer for n in range(2000))
    assert set(places) == {0, 1, 2, 3}
    assert all(400 < count < 600 for count in places.values())
    assert shuffled(Question("open", "Why?", (), "so"), 0) == Question("open", "Why?", (), "so")


def test_the_query_holds_the_choices_where_the_recipe_says_so():
    question = Question("q", "Which?", ("red", "blue"), 1)
    assert question.query("question") == "Which?"
    assert question.query("question_and_choices") == "Which? red blue"


def test_a_question_without_an_answer_has_no_answer_text():
    with pytest.raises(ValueError, match="question q has no answer"):
        _ = Question("q", "Why?").answer_text
