"""Questions: the dataclass, and the split of a dataset into train, dev and test."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kard.artifacts import read_jsonl, write_jsonl
from kard.errors import UserError
from kard.normal import visible
from kard.recipe import QuestionsSection
from kard.textfile import cleaned

SPLITS = ("train", "dev", "test")
DEV_SHARE, TEST_SHARE = 0.1, 0.2
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


def load_splits(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Read the recipe's questions and split them.

    Args:
        section: The recipe's ``questions``.
        seed: Decides the split, the order and the shuffling of choices.

    Returns:
        The questions of ``train``, ``dev`` and ``test``; no question with the same choices is in more than one of them
        unless the dataset's own files say so.

    Raises:
        UserError: A file is missing or wrong, or there are too few questions for the sizes asked for.
    """
    if section.kind == "wikivital":
        from kard.questions.wikivital import read_wikivital

        splits = split_by_text(read_wikivital(seed), section, seed)
    elif section.kind == "wikiyears":
        from kard.questions.wikiyears import read_wikiyears

        splits = read_wikiyears(section, seed)
    elif section.kind != "jsonl":
        from kard.questions.hub import read_from_hub

        splits = read_from_hub(section, seed)
    else:
        from kard.questions.jsonl import read_question_files

        splits = read_question_files(section, seed)
    _check_sizes(splits, section)
    if section.shuffle_choices:
        splits = {name: [shuffled(question, seed) for question in splits[name]] for name in splits}
    return splits


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


def split_by_text(questions: Sequence[Question], section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Split so that a question stays on one side; test is drawn first, so that other sizes never change it.

    Questions are the same if text and choices are, whatever their case, punctuation and order of choices.
    """
    groups: dict[tuple[str, ...], list[Question]] = {}
    for question in questions:
        same = (normalised(question.question), *sorted(map(normalised, question.choices)))
        groups.setdefault(same, []).append(question)
    order = sorted(groups.values(), key=lambda group: min(map(_whole_text, group)))
    random.Random(seed).shuffle(order)
    wanted = {
        "test": section.test_size or round(TEST_SHARE * len(questions)),
        "dev": section.dev_size or round(DEV_SHARE * len(questions)),
        "train": section.train_size or len(questions),
    }
    splits: dict[str, list[Question]] = {name: [] for name in SPLITS}
    rest = iter(order)
    for name, size in wanted.items():
        while len(splits[name]) < size and (group := next(rest, None)) is not None:
            splits[name] += group[: size - len(splits[name])]
    return splits


def _check_sizes(splits: dict[str, list[Question]], section: QuestionsSection) -> None:
    for name, size in (("test", section.test_size), ("dev", section.dev_size), ("train", section.train_size)):
        if size is not None and len(splits[name]) < size:
            raise UserError(
                f"questions.{name}_size: {size} asked for, {len(splits[name])} there are. Lower it, or add questions."
            )
    for name in ("train", "test"):
        if not splits[name]:
            raise UserError(
                f"{section.path or section.train or section.kind}: no question is left for {name}. "
                "Add questions, or lower the other sizes."
            )


def shuffled(question: Question, seed: int) -> Question:
    """The question with its choices in an order that depends on the seed and its id only."""
    if not question.choices:
        return question
    order = list(range(len(question.choices)))
    random.Random(f"{seed}:{question.id}").shuffle(order)
    answer = order.index(question.answer) if isinstance(question.answer, int) else question.answer
    return replace(question, choices=tuple(question.choices[i] for i in order), answer=answer)


def _whole_text(question: Question) -> str:
    return normalised(question.query("question_and_choices"))


def normalised(text: str) -> str:
    """A text without case and punctuation: what makes two titles or choices the same."""
    return re.sub(r"\W+", " ", text.casefold()).strip()
