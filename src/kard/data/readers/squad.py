"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), and what has their form: questions about a context, their gold passage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from kard.artifacts.files import hash_of
from kard.data.question import Question
from kard.data.readers.documents import Document
from kard.data.readers.rows import Row, text_in


def questions(row: Row, left: Counter[str]) -> Iterator[Question]:
    """The answer is the one that most annotators gave; questions that their context does not answer are counted in `left`."""
    for title, context, asked in _asked(row):
        texts = _answers(asked["answers"])
        if not texts:
            left["questions left out: their context does not answer them"] += 1
            continue
        answer = Counter(texts).most_common(1)[0][0]
        gold = (_name(title, context),)
        yield Question(str(asked["id"]), text_in(asked, "question"), answer=answer, gold_passages=gold)


def documents(row: Row, source: str) -> Iterator[Document]:
    """Each context; its name is made of its title and text, so that it is the same whichever file it comes from."""
    for title, context, _ in _asked(row):
        yield Document(_name(title, context), title.replace("_", " "), context, source)


def _asked(row: Row) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Title, context and question, of a whole file, of one article, or of a row of the hub's form."""
    if "context" in row:
        yield row.get("title") or "", text_in(row, "context"), row
        return
    for article in row.get("data", [row]):
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield article.get("title") or "", text_in(paragraph, "context"), asked


def _answers(answers: Any) -> list[str]:
    texts = answers["text"] if isinstance(answers, Mapping) else [one["text"] for one in answers]
    return [text for text in texts if text.strip()]


def _name(title: str, context: str) -> str:
    return f"{title}:{hash_of(context)[:10]}"
