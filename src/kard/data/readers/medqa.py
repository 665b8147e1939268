"""MedQA-USMLE with four options (Jin et al. 2020), from the hub: 10,178 / 1,272 / 1,273 questions, the split of the paper."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.hub import Row, place_of, read_dataset, text_in

DATASET = "GBaker/MedQA-USMLE-4-options-hf"


def read() -> dict[str, list[Question]]:
    """Questions by split, from columns ``id, sent1, sent2, ending0 … ending3, label``."""
    return read_dataset(DATASET, _question)


def _question(row: Row) -> Question:
    second = row.get("sent2")
    return Question(
        id=f"medqa:{text_in(row, 'id')}",
        question=" ".join((text_in(row, "sent1"), *([text_in(row, "sent2")] if second else []))),
        choices=tuple(text_in(row, f"ending{number}") for number in range(4)),
        answer=place_of(row["label"], range(4), "label"),
    )
