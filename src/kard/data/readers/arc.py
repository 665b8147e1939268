"""ARC (Clark et al. 2018): the easy and the challenging questions together, three to five choices."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, lettered, text_in


def question(row: Row) -> Question:
    """From columns ``id, question, choices, answerKey``."""
    return lettered("arc", row, text_in(row, "question"))
