"""HotpotQA (Yang et al. 2018), and 2WikiMultihopQA, which has its form: questions over several paragraphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kard.data.question import Question
from kard.data.readers.documents import Document
from kard.data.readers.rows import Row, text_in


def question(row: Row) -> Question:
    """Gold passages are the paragraphs, by title, that hold supporting facts; these sentences together are a rationale."""
    facts = _pairs(row["supporting_facts"], "title", "sent_id")
    sentences = dict(_paragraphs(row))
    found = [sentences[title][place] for title, place in facts if 0 <= place < len(sentences.get(title, ()))]
    answer = text_in(row, "answer")
    choices = ("yes", "no") if answer.casefold() in ("yes", "no") else ()
    return Question(
        id=text_in(row, "_id" if "_id" in row else "id"),
        question=text_in(row, "question"),
        choices=choices,
        answer=choices.index(answer.casefold()) if choices else answer,
        rationales=(" ".join(found),) if found else (),
        gold_passages=tuple(dict.fromkeys(title for title, _ in facts)),
    )


def documents(row: Row, source: str) -> Iterator[Document]:
    """The paragraphs that come with a question; their names are their titles."""
    for title, sentences in _paragraphs(row):
        yield Document(title, title, " ".join(sentences), source)


def _paragraphs(row: Row) -> Iterator[tuple[str, list[str]]]:
    for title, sentences in _pairs(row["context"], "title", "sentences"):
        yield title, [sentence.strip() for sentence in sentences]


def _pairs(found: Any, first: str, second: str) -> list[tuple[Any, Any]]:
    """Pairs, which the hub keeps in two lists."""
    return list(zip(found[first], found[second], strict=True) if isinstance(found, Mapping) else found)
