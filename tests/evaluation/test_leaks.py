"""Shared runs of words are found where they are, by a reference that looks at every pair, and in streams of any length."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import pytest

from kard.artifacts.folders import seal
from kard.data.passage import Passage, write_passages
from kard.data.question import Question, write_questions
from kard.evaluation.leaks import TEMPLATE, find_leaks
from kard.evaluation.results import leaks_of
from kard.recipe.recipe import Recipe
from kard.retrieval.index import build_retriever
from kard.run import Run


def asked(*texts: str) -> list[Question]:
    return [Question(f"q{number}", text) for number, text in enumerate(texts)]


def runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}


def reference(test: list[Question], texts: list[str], n: int) -> list[str]:
    """The test questions that share a run with a text: every run of every text, and how many texts have it."""
    holders: dict[tuple[str, ...], int] = {}
    for text in texts:
        for run in runs(text, n):
            holders[run] = holders.get(run, 0) + 1
    return [q.id for q in test if any(0 < holders.get(run, 0) <= TEMPLATE for run in runs(q.question, n))]


def test_the_same_as_looking_at_every_pair():
    chance = random.Random(0)
    words = [f"w{number}" for number in range(6)]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, 40))) for _ in range(80)]
    test = asked(*(" ".join(chance.choices(words, k=chance.randint(8, 12))) for _ in range(60)))
    found = find_leaks(test, asked(*texts[:40]), texts[40:])
    assert found["n"] == 8
    assert found["train"]["questions"] == reference(test, texts[:40], 8)
    assert found["passages"]["questions"] == reference(test, texts[40:], 8)


def test_a_planted_leak_is_named_and_loud():
    secret = "the hook's law of springs says that force grows with stretch"
    test = asked(
        f"Is it true that {secret}?", *(f"what about the number {n} and its own neighbours here" for n in range(9))
    )
    train = asked("Something else entirely about rivers and their long way down to the sea")
    passages = [f"A page of its own, number {n}" for n in range(2500)]
    passages[2400] = f"Known: {secret.upper()}; more follows."
    found = find_leaks(test, train, passages)
    assert found["train"]["questions"] == []
    assert not found["train"]["loud"]
    assert found["passages"]["questions"] == ["q0"]
    assert found["passages"]["share"] == pytest.approx(0.1)
    assert not found["passages"]["loud"]
    [example] = found["passages"]["examples"]
    assert example["found_in"] == passages[2400]
    assert example["words"] in secret.replace("'", " ")
    assert len(example["words"].split()) == found["n"]
    assert find_leaks(test[:5], train, passages)["passages"]["loud"]


def test_templates_do_not_count():
    same = "which of these four titles is the one that is described in these very words here"
    test = asked(f"{same} alpha")
    few, many = ([f"{same} {n} {n} {n}" for n in range(count)] for count in (TEMPLATE, TEMPLATE + 1))
    assert find_leaks(test, asked(*few), [])["train"]["questions"] == ["q0"]
    assert find_leaks(test, asked(*many), [])["train"]["questions"] == []


def test_choices_belong_to_the_question_and_words_have_no_case():
    test = [
        Question("a", "Which one?", ("Iron rusts when it lies in water and air for long", "Gold"), 0),
        *asked("short"),
    ]
    found = find_leaks(test, [], ["iron RUSTS when it lies in water and air for LONG."])
    assert found["passages"]["questions"] == ["a"]
    assert find_leaks(test, [], ["iron RUSTS when it never lies in water and air"])["passages"]["questions"] == []


def test_runs_do_not_reach_from_one_text_into_the_next():
    words = "one two three four five six seven eight nine ten"
    split = [words[:23], words[24:]]
    assert " ".join(split) == words
    assert find_leaks(asked(words), [], split)["passages"]["questions"] == []


def test_the_length_is_that_of_short_questions_within_bounds():
    def n(*lengths: int) -> int:
        return find_leaks(asked(*(" ".join(["x"] * length) for length in lengths)), [], [])["n"]

    assert (n(3, 3, 3), n(10, 10, 10), n(50, 50)) == (8, 10, 13)
    found = find_leaks(asked("a b c", "d e f"), asked("a b c"), ["a b c"])
    assert found["too_short"] == 2
    assert found["train"]["questions"] == []


def test_passages_are_streamed():
    """Never more than a block of them is alive, however many there are."""
    alive, most = 0, 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[str]:
        nonlocal alive, most
        for number in range(5000):
            alive += 1
            most = max(most, alive)
            yield Text(f"passage {number}")

    read: list[int] = []
    find_leaks(asked("a question of more than eight words that nobody else has"), [], stream(), read.append)
    assert sum(read) == 5000
    assert most <= 2001


def test_a_run_looks_only_into_passages_that_its_retriever_finds(tmp_path, capsys):
    """Beside the passage that gives the question away there are any number of others, which are not read."""
    secret = "the hook's law of springs says that force grows with stretch"
    recipe = Recipe.model_validate(
        {"questions": {"path": "q"}, "knowledge": {"path": "p"}, "retriever": {"candidates": 3}}
    )
    (tmp_path / "questions").mkdir()
    (tmp_path / "knowledge").mkdir()
    write_questions(tmp_path / "questions" / "test.jsonl", [Question("q", f"Is it true that {secret}?", answer="yes")])
    write_questions(tmp_path / "questions" / "train.jsonl", [Question("t", "Why?", answer="so")])
    texts = [*(f"A page about the law of number {n}" for n in range(50)), f"So it is true that {secret.upper()}."]
    passages = [Passage(f"p{n}", "", text, f"p{n}", "s") for n, text in enumerate(texts)]
    write_passages(tmp_path / "knowledge" / "passages.jsonl", passages)
    build_retriever(recipe.retriever, texts, tmp_path / "index")
    for stage in ("knowledge", "index"):
        seal(tmp_path / stage, {"name": stage, "key": "k", "seconds": 0.0})
    found = leaks_of(Run(tmp_path, recipe), {"m": [{"question": "q", "correct": True}]})
    assert found["passages"]["questions"] == ["q"]
    assert "a passage" in capsys.readouterr().err
