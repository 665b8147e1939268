"""Reader of questions in JSONL: one object a line, checked line by line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from kard.data.normal import visible
from kard.data.question import Question, check_choices
from kard.data.readers.foreign import OURS, check_file, check_keys, say_unread
from kard.data.splits import sampled, split_by_text
from kard.data.textfile import cleaned, json_rows
from kard.errors import UserError
from kard.progress import say
from kard.recipe.sections import QuestionsSection

_UNLIKELY = 0.1
ReadFile = Callable[[Path, str], list[Question]]


def read_question_files(
    section: QuestionsSection, seed: int, read: ReadFile | None = None
) -> dict[str, list[Question]]:
    """Train, dev and test from the recipe's one file or from its separate files.

    Separate files keep their order; where a size is given, the first so many of a seeded order are taken.

    Args:
        section: Names the files.
        seed: Decides the split.
        read: What reads a file of questions, given its split; None: `read_questions_jsonl`.
    """
    read = read or read_questions_jsonl
    if section.path is not None:
        return split_by_text(read(section.path, "train"), section, seed)
    files = {"train": section.train, "dev": section.dev, "test": section.test}
    splits = {name: read(path, name) if path else [] for name, path in files.items()}
    first: dict[str, str] = {}
    for name in splits:
        for question in splits[name]:
            if (other := first.setdefault(question.id, name)) != name:
                raise UserError(
                    f"{files[name]}: id '{question.id}' is in {files[other]} too. Give every question its own id."
                )
    return sampled(splits, section, seed)


def read_questions_jsonl(path: Path, split: str = "train") -> list[Question]:
    """Read and check a file of questions.

    Args:
        path: JSONL with ``id, question, answer`` and, where there are any, ``choices, rationales, gold_passages, conclusion``.
            `answer` is the index of the right choice (or its text), or a text for an open question.
        split: Stands in the questions' `row`.

    Raises:
        UserError: Names the file and the line of the first thing that is wrong.
    """
    check_file(path)
    questions: list[Question] = []
    lines: dict[str, int] = {}
    keys: set[str] = set()
    numbers: list[tuple[str, int, tuple[str, ...]]] = []
    for number, row in read_user_jsonl(path):
        question = question_of(row, f"{path}:{number}")
        if question.id in lines:
            raise UserError(
                f"{path}:{number}: id '{question.id}' is already on line {lines[question.id]}. Give every question its own id."
            )
        lines[question.id] = number
        keys |= row.keys()
        if isinstance(row["answer"], int):
            numbers.append((f"{path}:{number}", row["answer"], question.choices))
        questions.append(replace(question, row=f"{split}/{len(questions)}"))
    if not questions:
        raise UserError(f"{path}: holds no question. Add one JSON object a line.")
    _check_numbers(path, numbers)
    say_unread(path, keys)
    return questions


def _check_numbers(path: Path, given: list[tuple[str, int, tuple[str, ...]]]) -> None:
    """Look whether the answers of a file that are numbers are indices, and from where they count.

    Raises:
        UserError: One may be a choice as well, and no question tells.
    """
    unclear = ""
    for where, answer, choices in given:
        named = [choice for choice in choices if _number(choice) == answer]
        if not named:  # so it is an index, and so are the others
            break
        if not unclear and _number(choices[answer]) != answer:
            unclear = (
                f"{where}: 'answer' {answer} may be the choice '{named[0]}' or the index of '{choices[answer]}', and no other "
                f'question tells. Write the right choice as a text, such as "{named[0]}".'
            )
    else:
        if unclear:
            raise UserError(unclear)
    # If the right choice's place were drawn at random, none would be the first one this often.
    chance = math.prod(1 - 1 / len(choices) for _, _, choices in given)
    if given and min(answer for _, answer, _ in given) > 0 and chance < _UNLIKELY:
        say(f"  {path}: no answer is 0, the index of the first choice. If yours count from 1, subtract 1 from each.")


def read_user_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a user's JSONL file; the first bad line raises UserError.

    What no text can hold is replaced (`cleaned`), and counted at the end.
    """
    found: Counter[str] = Counter()
    for number, row in json_rows(path):
        yield number, cleaned(row, found)
    for character, count in found.items():
        say(f"  {path}: replaced: {count:,} {character}, which no text can hold")


def text_of(row: dict[str, Any], key: str, where: str) -> str:
    """A non-empty text field of a user's row, or a UserError that names line and key."""
    value = row.get(key)
    if key == "id" and _is_whole(value):
        return str(value)
    if value is None:
        raise UserError(f"{where}: key '{key}' is missing. Add it.")
    if not isinstance(value, str) or not value.strip():
        what = "is empty" if isinstance(value, str) else f"is no text (found {value!r:.60})"
        raise UserError(f"{where}: '{key}' {what}. Give it a text.")
    return value


def texts_of(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """A list of non-empty texts (or nothing), or a UserError that names line and key; `gold_passages` may be whole numbers."""
    value = [] if row.get(key) is None else row[key]
    if isinstance(value, list) and key == "gold_passages":
        value = [str(item) if _is_whole(item) else item for item in value]
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise UserError(f"{where}: '{key}' must be a list of non-empty texts (found {value!r:.60}). Mend the line.")
    return tuple(value)


def choices_of(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The choices of a user's row: none, or at least two."""
    choices = texts_of(row, "choices", where)
    if len(choices) == 1:
        raise UserError(f"{where}: 'choices' has one entry. Give at least two, or none for an open question.")
    return choices


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def question_of(row: dict[str, Any], where: str) -> Question:
    """The question of a user's row, or a UserError that names line and key."""
    check_keys(row, OURS, where)
    choices = choices_of(row, where)
    answer = _answer(row, choices, where)
    if isinstance(answer, int):
        check_choices(choices, where, answer)
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
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(
                f"{where}: 'answer' is {answer!r}, and there are no choices to count. Give the answer's text."
            )
        if "\n#### " in answer:
            raise UserError(
                f"{where}: 'answer' holds its working too (GSM8K). Put what stands before #### in 'rationales'."
            )
        return answer
    last = len(choices) - 1
    if isinstance(answer, str):
        return _choice_named(answer, choices, where)
    if not _is_whole(answer):
        raise UserError(f"{where}: 'answer' {answer!r} is none of the choices. Give an index from 0 to {last}.")
    if not 0 <= answer <= last:
        from_one = " Do yours count from 1?" if answer == len(choices) else ""
        raise UserError(f"{where}: 'answer' {answer} is out of range.{from_one} Give an index from 0 to {last}.")
    return int(answer)


def _choice_named(answer: str, choices: tuple[str, ...], where: str) -> int:
    """The choice that a text is; but for what nobody sees."""
    plain = [" ".join(visible(text).split()) for text in (answer, *choices)]
    if plain[0] in plain[1:]:
        return choices.index(answer) if answer in choices else plain.index(plain[0], 1) - 1
    last = len(choices) - 1
    letter = ascii_uppercase.find(plain[0].upper()) if len(plain[0]) == 1 else -1
    if 0 <= letter <= last:
        raise UserError(
            f"{where}: 'answer' {answer!r} is none of the choices, and letters are not read. Give the index {letter}, or "
            f"'{choices[letter]}'."
        )
    number = " Write an index without quotes." if plain[0].isdecimal() else ""
    raise UserError(f"{where}: 'answer' {answer!r} is none of the choices.{number} Give an index from 0 to {last}.")


def _number(text: str) -> float | None:
    """The number that a choice is."""
    try:
        return float(text)
    except ValueError:
        return None
