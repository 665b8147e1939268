"""ARC (Clark et al. 2018), from the hub: the easy and the challenging questions together, three to five choices."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.hub import Row, lettered, read_dataset, text_in
from kard.data.splits import SPLITS

DATASET, CONFIGS = "allenai/ai2_arc", ("ARC-Easy", "ARC-Challenge")


def read() -> dict[str, list[Question]]:
    """Questions by split, from columns ``id, question, choices, answerKey``."""
    parts = [read_dataset(DATASET, _question, config) for config in CONFIGS]
    return {name: [question for part in parts for question in part[name]] for name in SPLITS}


def _question(row: Row) -> Question:
    return lettered("arc", row, text_in(row, "question"))
