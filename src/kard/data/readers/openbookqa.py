"""OpenbookQA (Mihaylov et al. 2018): 4,957 / 500 / 500 questions with four choices."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, fact_in, lettered, text_in, without_stem


def question(row: Row) -> Question:
    """From columns ``id, question_stem, choices, answerKey, fact1``; the open book's fact is a rationale.

    The authors' own files have ``question`` with ``stem`` and ``choices`` in it, and facts in one of their two forms.
    """
    row = without_stem({"fact1": None, **row} if isinstance(row.get("question"), dict) else row)
    return lettered("openbookqa", row, text_in(row, "question_stem"), fact_in(row, "fact1"))
