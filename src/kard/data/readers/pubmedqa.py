"""PubMedQA (Jin et al. 2019): its 1,000 labelled questions, in one split."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, fact_in, place_of, text_in

CHOICES = ("yes", "no", "maybe")


def question(row: Row) -> Question:
    """From columns ``pubid, question, final_decision, long_answer``; the authors' conclusion is a rationale."""
    return Question(
        id=f"pubmedqa:{row['pubid']}",
        question=text_in(row, "question"),
        choices=CHOICES,
        answer=place_of(row["final_decision"], CHOICES, "final_decision"),
        rationales=fact_in(row, "long_answer"),
    )
