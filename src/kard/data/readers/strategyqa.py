"""StrategyQA (Geva et al. 2021): 1,603 training and 687 test questions, the split of the paper; no dev."""

from __future__ import annotations

from kard.data.question import Question
from kard.data.readers.rows import Row, fact_in, shown, text_in


def question(row: Row) -> Question:
    """From columns ``qid, question, answer, facts``; the facts behind the answer are a rationale."""
    return Question(
        id=f"strategyqa:{text_in(row, 'qid')}",
        question=text_in(row, "question"),
        choices=("yes", "no"),
        answer=0 if _is_yes(row["answer"]) else 1,
        rationales=fact_in(row, "facts"),
    )


def _is_yes(answer: object) -> bool:
    """A boolean, or one in words: a text "False" is no."""
    word = str(answer).casefold() if isinstance(answer, bool | str) else ""
    if word in ("yes", "true", "no", "false"):
        return word in ("yes", "true")
    raise ValueError(f"'answer' is {shown(answer)}, and should be true, false, yes or no")
