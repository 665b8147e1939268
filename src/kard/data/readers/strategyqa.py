"""StrategyQA (Geva et al. 2021): 1,603 training and 687 test questions, the split of the paper; no dev."""

from __future__ import annotations

from collections.abc import Iterator

from kard.data.question import Question
from kard.data.readers.documents import Document
from kard.data.readers.rows import Row, fact_in, shown, text_in

_NO_PARAGRAPH = ("operation", "no_evidence")


def question(row: Row) -> Question:
    """From columns ``qid, question, answer, facts``; the facts behind the answer are a rationale.

    The authors' own files have ``evidence`` too: ids of paragraphs, in lists for each annotator and each step.
    """
    return Question(
        id=f"strategyqa:{text_in(row, 'qid')}",
        question=text_in(row, "question"),
        choices=("yes", "no"),
        answer=0 if _is_yes(row["answer"]) else 1,
        rationales=fact_in(row, "facts"),
        gold_passages=tuple(dict.fromkeys(_paragraphs(row.get("evidence")))),
    )


def documents(row: Row, source: str) -> Iterator[Document]:
    """The authors' file of paragraphs: one object of ``title`` and ``content`` by id."""
    for identity, paragraph in row.items():
        yield Document(identity, paragraph["title"], text_in(paragraph, "content"), source)


def _paragraphs(evidence: object) -> Iterator[str]:
    if isinstance(evidence, str) and evidence not in _NO_PARAGRAPH:
        yield evidence
    elif isinstance(evidence, list):
        for inner in evidence:
            yield from _paragraphs(inner)


def _is_yes(answer: object) -> bool:
    """A boolean, or one in words: a text "False" is no."""
    word = str(answer).casefold() if isinstance(answer, bool | str) else ""
    if word in ("yes", "true", "no", "false"):
        return word in ("yes", "true")
    raise ValueError(f"'answer' is {shown(answer)}, and should be true, false, yes or no")
