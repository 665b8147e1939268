"""StrategyQA (Geva et al. 2021), from the hub: 1,603 training and 687 test questions, the split of the paper; no dev."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.hub import Row, fact_in, read_dataset, shown, text_in

DATASET = "ChilleD/StrategyQA"


def read() -> dict[str, list[Question]]:
    """Questions by split, from columns ``qid, question, answer, facts``; the facts behind the answer are a rationale."""
    return read_dataset(DATASET, _question)


def _question(row: Row) -> Question:
    return Question(
        id=f"strategyqa:{text_in(row, 'qid')}",
        question=text_in(row, "question"),
        choices=("yes", "no"),
        answer=0 if _is_yes(row["answer"]) else 1,
        rationales=fact_in(row, "facts"),
    )


def _is_yes(answer: object) -> bool:
    """A boolean, or one in words: a text "False" is no."""
    words = {"yes": True, "true": True, "no": False, "false": False}
    if isinstance(answer, bool):
        return answer
    if isinstance(answer, str) and answer.casefold() in words:
        return words[answer.casefold()]
    raise ValueError(f"'answer' is {shown(answer)}, and should be true, false, yes or no")
