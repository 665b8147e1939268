"""ARC (Clark et al. 2018): the easy and the challenging questions together, three to five choices."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, lettered, text_in, without_stem


def question(row: Row) -> Question:
    """From columns ``id, question, choices, answerKey``; the authors' own files have stem and choices in ``question``."""
    row = without_stem(row)
    return lettered("arc", row, text_in(row, "question_stem" if "question_stem" in row else "question"))
