"""Reader of questions in JSONL: one object a line, checked line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kard.errors import UserError
from kard.questions import Question, split_by_text
from kard.recipe import QuestionsSection
from kard.textfile import cleaned, json_rows


def read_question_files(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Train, dev and test from the recipe's one file or from its separate files.

    Separate files keep their order; where a size is given, the first so many of a seeded order are taken.
    """
    if section.path is not None:
        return split_by_text(read_questions_jsonl(section.path), section, seed)
    splits: dict[str, list[Question]] = {}
    seen: dict[str, Path] = {}
    for name, path in (("train", section.train), ("dev", section.dev), ("test", section.test)):
        questions = read_questions_jsonl(path, name) if path else []
        for question in questions:
            if question.id in seen:
                raise UserError(
                    f"{path}: id '{question.id}' is in {seen[question.id]} too. Give every question its own id."
                )
        seen |= {question.id: path for question in questions if path}
        splits[name] = questions
    sizes = {"train": section.train_size, "dev": section.dev_size, "test": section.test_size}
    return {name: sample(splits[name], sizes[name], seed) for name in splits}


def sample(questions: list[Question], size: int | None, seed: int) -> list[Question]:
    import random

    if size is None or size >= len(questions):
        return questions
    kept = set(random.Random(seed).sample(range(len(questions)), size))
    return [question for index, question in enumerate(questions) if index in kept]


def read_questions_jsonl(path: Path, split: str = "train") -> list[Question]:
    """Read and check a file of questions.

    Args:
        path: JSONL with ``id, question, answer`` and, where there are any, ``choices, rationales, gold_passages, conclusion``.
            `answer` is the index of the right choice (or its text), or a text for an open question.
        split: Stands in the questions' `row`.

    Raises:
        UserError: Names the file and the line of the first thing that is wrong.
    """
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, row in read_user_jsonl(path):
        question = _question(row, f"{path}:{number}")
        if question.id in lines:
            raise UserError(
                f"{path}:{number}: id '{question.id}' is already on line {lines[question.id]}. Give every question its own id."
            )
        lines[question.id] = number
        questions.append(replace(question, row=f"{split}/{len(questions)}"))
    if not questions:
        raise UserError(f"{path}: holds no question. Add one JSON object a line.")
    return questions


def read_user_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a user's JSONL file; the first bad line raises UserError."""
    for number, row in json_rows(path):
        found: Counter[str] = Counter()
        cleaned(row, found)
        if found["half surrogate pair"]:
            raise UserError(f"{path}:{number}: holds half of a \\u pair, which is no character. Mend the line.")
        yield number, row


def text_of(row: dict[str, Any], key: str, where: str) -> str:
    """A non-empty text field of a user's row, or a UserError that names line and key."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and key == "id":
        return str(value)
    if value is None:
        raise UserError(f"{where}: key '{key}' is missing. Add it.")
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{where}: '{key}' is {'empty' if value == '' or isinstance(value, str) else 'no text'}. Give it a text."
        )
    return value


def texts_of(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of non-empty texts (or nothing), or a UserError that names line and key."""
    value = [] if row.get(key) is None else row[key]
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise UserError(f"{where}: '{key}' must be a list of non-empty texts. Mend the line.")
    return tuple(value)


def _question(row: dict[str, Any], where: str) -> Question:
    choices = texts_of(row, "choices", where)
    if len(choices) == 1:
        raise UserError(f"{where}: 'choices' has one entry. Give at least two, or none for an open question.")
    answer = _answer(row, choices, where)
    if isinstance(answer, int) and choices.count(choices[answer]) > 1:
        raise UserError(f"{where}: the right choice '{choices[answer]}' is there twice. Make the choices different.")
    return Question(
        id=text_of(row, "id", where),
        question=text_of(row, "question", where),
        choices=choices,
        answer=answer,
        rationales=texts_of(row, "rationales", where),
        gold_passages=texts_of(row, "gold_passages", where),
        conclusion=text_of(row, "conclusion", where) if row.get("conclusion") else "",
    )


def _answer(row: dict[str, Any], choices: tuple[str, ...], where: str) -> int | str:
    answer = row.get("answer")
    if answer is None:
        raise UserError(f"{where}: key 'answer' is missing. Add the index of the right choice, or the answer's text.")
    if not choices:
        if isinstance(answer, str) and answer.strip():
            return answer
        raise UserError(f"{where}: 'answer' is {answer!r}, and there are no choices to count. Give the answer's text.")
    if isinstance(answer, str) and answer in choices:
        return choices.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        raise UserError(
            f"{where}: 'answer' {answer!r} is none of the choices. Give an index from 0 to {len(choices) - 1}."
        )
    if not 0 <= answer < len(choices):
        raise UserError(f"{where}: 'answer' {answer} is out of range. Give an index from 0 to {len(choices) - 1}.")
    return answer
