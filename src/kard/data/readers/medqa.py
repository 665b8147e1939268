"""MedQA-USMLE with four options (Jin et al. 2020): 10,178 / 1,272 / 1,273 questions, the split of the paper."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, place_of, text_in


def question(row: Row) -> Question:
    """From columns ``id, sent1, sent2, ending0 … ending3, label``."""
    second = row.get("sent2")
    return Question(
        id=f"medqa:{text_in(row, 'id')}",
        question=" ".join((text_in(row, "sent1"), *([text_in(row, "sent2")] if second else []))),
        choices=tuple(text_in(row, f"ending{number}") for number in range(4)),
        answer=place_of(row["label"], range(4), "label"),
    )
