"""MedQA-USMLE (Jin et al. 2020): with four options 10,178 / 1,272 / 1,273 questions, the split of the paper."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, labelled, place_of, text_in


def question(row: Row) -> Question:
    """From columns ``id, sent1, sent2, ending0 … ending3, label``."""
    second = row.get("sent2")
    return Question(
        id=f"medqa:{text_in(row, 'id')}",
        question=" ".join((text_in(row, "sent1"), *([text_in(row, "sent2")] if second else []))),
        choices=tuple(text_in(row, f"ending{number}") for number in range(4)),
        answer=place_of(row["label"], range(4), "label"),
    )


def own_question(row: Row, source: str) -> Question:
    """From the authors' own files: ``question, options`` (texts by letter) and ``answer_idx``; `source` stands for an id."""
    choices, letters = labelled(row["options"], "options")
    return Question(
        id=f"medqa:{row.get('id', source)}",
        question=text_in(row, "question"),
        choices=choices,
        answer=place_of(row["answer_idx"], letters, "answer_idx"),
    )
