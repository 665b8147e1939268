"""OpenbookQA (Mihaylov et al. 2018), from the hub: 4,957 / 500 / 500 questions with four choices."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.hub import Row, fact_in, lettered, read_dataset, text_in

DATASET, CONFIG = "allenai/openbookqa", "additional"


def read() -> dict[str, list[Question]]:
    """Questions by split, from columns ``id, question_stem, choices, answerKey, fact1``; the open book's fact is a rationale."""
    return read_dataset(DATASET, _question, CONFIG)


def _question(row: Row) -> Question:
    return lettered("openbookqa", row, text_in(row, "question_stem"), fact_in(row, "fact1"))
