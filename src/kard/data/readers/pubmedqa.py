"""PubMedQA (Jin et al. 2019), from the hub: its 1,000 labelled questions, in one split."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.hub import Row, fact_in, place_of, read_dataset, text_in

DATASET, CONFIG = "qiaojin/PubMedQA", "pqa_labeled"
CHOICES = ("yes", "no", "maybe")


def read() -> dict[str, list[Question]]:
    """Questions, from columns ``pubid, question, final_decision, long_answer``; the authors' conclusion is a rationale."""
    return read_dataset(DATASET, _question, CONFIG)


def _question(row: Row) -> Question:
    return Question(
        id=f"pubmedqa:{row['pubid']}",
        question=text_in(row, "question"),
        choices=CHOICES,
        answer=place_of(row["final_decision"], CHOICES, "final_decision"),
        rationales=fact_in(row, "long_answer"),
    )
