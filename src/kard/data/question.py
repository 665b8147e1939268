"""Questions: what one is, how it is kept on disk, and what it must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl, write_jsonl
from kard.data.normal import visible
from kard.data.textfile import cleaned
from kard.errors import UserError

_LONG_CHOICE = 4  # characters


@dataclass(frozen=True)
class Question:
    """A question with its answer.

    Attributes:
        id: Unique in the dataset.
        question: The text, without the choices.
        choices: The options, or empty for an open question.
        answer: Index into `choices`, or the answer's text for an open question; None if it is not known.
        rationales: Rationales that came with the data.
        gold_passages: Ids of passages or documents that support the answer, where the dataset says so.
        conclusion: What follows from all gold passages together, where no single one supports the answer.
        row: Split and row of the dataset's own files, counted from 0, as ``train/12``; empty where it has none.
    """

    id: str
    question: str
    choices: tuple[str, ...] = ()
    answer: int | str | None = None
    rationales: tuple[str, ...] = ()
    gold_passages: tuple[str, ...] = ()
    conclusion: str = ""
    row: str = field(default="", compare=False)

    @property
    def answer_text(self) -> str:
        """The answer in words."""
        if self.answer is None:
            raise ValueError(f"question {self.id} has no answer")
        return self.choices[self.answer] if isinstance(self.answer, int) else self.answer

    @property
    def is_yes_no(self) -> bool:
        """Whether the choices are yes and no."""
        return {choice.casefold() for choice in self.choices} == {"yes", "no"}

    def query(self, form: str) -> str:
        """The text that retrieval sees: the question alone, or with its choices (``retriever.query``)."""
        return " ".join((self.question, *self.choices)) if form == "question_and_choices" else self.question


def question_from_row(row: dict[str, Any]) -> Question:
    """A question from a row that `kard` itself wrote."""
    lists = {name: tuple(row.get(name) or ()) for name in ("choices", "rationales", "gold_passages")}
    conclusion, place = row.get("conclusion", ""), row.get("row", "")
    answer = row.get("answer")
    return Question(id=row["id"], question=row["question"], answer=answer, conclusion=conclusion, row=place, **lists)


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as JSONL in the format that the jsonl reader takes."""
    write_jsonl(path, (asdict(question) for question in questions))


def read_questions(path: Path) -> list[Question]:
    """Read questions that `write_questions` wrote."""
    return [question_from_row(row) for row in read_jsonl(path)]


def check_asked(question: Question) -> None:
    """Raise UserError where a question or a choice of it is empty or holds no text, or a choice is there twice."""
    texts = (question.question, *question.choices)
    if not all(text.strip() for text in texts):
        raise UserError(f"question '{question.id}': is empty, or has an empty choice. Give it a text.")
    found: Counter[str] = Counter()
    cleaned([text.replace("\0", "") for text in texts], found)  # NUL is read as any other sign
    if found:
        raise UserError(
            f"question '{question.id}': holds {' and '.join(found)}, which no text can hold. Write it in UTF-8."
        )
    check_choices(question.choices, f"question '{question.id}'")


def check_choices(choices: Sequence[str], where: str, right: int | None = None) -> None:
    """Look for choices that are the same but for what nobody sees, case, and what closes a sentence.

    Case and a full stop tell short ones apart, such as mm and Mm.

    Args:
        choices: The options.
        where: What the error names.
        right: The right one's index, or None.

    Raises:
        UserError: Two are the same, and one of them is the right one, or it is not known which one is.
    """
    first: dict[str, int] = {}
    for place, choice in enumerate(choices):
        line = " ".join(visible(choice).split())
        closed = line.casefold().rstrip(" .,;:")
        other = first.setdefault(closed if len(closed) >= _LONG_CHOICE else line, place)
        if other != place and right in (None, other, place):
            also = f" ('{choices[other]}' and '{choice}')" if choices[other] != choice else ""
            raise UserError(f"{where}: the choice '{choice}' is there twice{also}. Make the choices different.")
