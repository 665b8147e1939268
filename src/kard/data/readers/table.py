"""Questions in tables: a column for the question, one for each choice or one with all of them, and one for the answer."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kard.data.normal import visible
from kard.data.question import Question, check_choices
from kard.data.readers.foreign import stands_for
from kard.data.readers.rows import Row, labelled, shown, text_in

KEYS = ("id", "question", "choices", "answer", "rationales", "gold_passages")
_CHOICE = re.compile(r"((?:answer|choice|option|opt|op|alternative|ending|sol)?[\W_]*)([a-j]|\d{1,2})", re.IGNORECASE)
_WRONG = re.compile(
    r"(?:wrong|incorrect|false|distractor)[\W_]*(?:answer|choice|option)?[\W_]*(?:[a-z]|\d{1,2})?", re.I
)
_LABEL = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Layout:
    """Which column of a table holds what.

    Attributes:
        columns: Their names, by our keys; only those that are there.
        choices: Columns that hold one choice each, by label.
        wrong: Columns that hold one wrong choice each: the right one is the answer itself.
        first: What answers that are numbers count from; None where nobody can tell.
    """

    columns: Mapping[str, str]
    choices: Mapping[str, str]
    wrong: Sequence[str]
    first: int | None = None


def layout_of(rows: Sequence[Row], named: Mapping[str, str]) -> Layout:
    """Look at a table's columns and answers.

    Args:
        rows: All of the table.
        named: ``questions.columns``: our keys with the table's names; of ``choices``, what the names of its columns begin with.

    Raises:
        ValueError: There is no column for question or answer.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {key: found for key in KEYS if (found := _column(key, names, named))}
    for key in ("question", "answer"):
        if key not in columns:
            raise ValueError(f"there is no column '{named.get(key, key)}' among {', '.join(names)}")
    free = [name for name in names if name not in columns.values()]
    choices = _choice_columns(free, named.get("choices", "")) if "choices" not in columns else {}
    if "choices" in named and not choices and "choices" not in columns:
        raise ValueError(f"no column begins with '{named['choices']}' among {', '.join(names)}")
    wrong = [name for name in free if _WRONG.fullmatch(name.strip())] if not choices else []
    layout = Layout(columns, choices, wrong)
    return replace(layout, first=_first(rows, layout))


def question(row: Row, source: str, where: str, layout: Layout) -> Question:
    """The question of a row; `source` stands for an id where the table has none.

    Raises:
        ValueError: A value is not what it should be.
        UserError: Two choices are the same.
    """
    columns = layout.columns
    identity = cell(row.get(columns.get("id", ""))) or source
    choices, labels = _choices(row, layout)
    if len(choices) == 1 and not layout.wrong:
        raise ValueError(f"there is one choice alone, {choices[0]!r}: give at least two, or none")
    answer = cell(row[columns["answer"]])
    if not answer:
        raise ValueError(f"'{columns['answer']}' is empty")
    place = None
    if layout.wrong and choices:
        place = random.Random(identity).randrange(len(choices) + 1)  # its place must not give it away
        choices = (*choices[:place], answer, *choices[place:])
    elif choices:
        place = _place(answer, choices, labels, layout.first)
    check_choices(choices, where, place)
    return Question(
        id=identity,
        question=text_in(row, columns["question"]),
        choices=choices,
        answer=answer if place is None else place,
        rationales=_texts(row.get(columns.get("rationales", ""))),
        gold_passages=_texts(row.get(columns.get("gold_passages", "")), ";"),
    )


def cell(value: Any) -> str:
    """A cell as text; nothing where it is empty."""
    return "" if value is None else str(value).strip()


def _column(key: str, names: Sequence[str], named: Mapping[str, str]) -> str | None:
    """The table's own name for one of our keys: as the recipe says, ours, or the one that others give to it."""
    wanted = named.get(key, key).casefold()
    same = [name for name in names if name.strip().casefold() == wanted]
    like = [name for name in names if stands_for(name, key) and not _CHOICE.fullmatch(name.strip())]
    return same[0] if same else like[0] if len(like) == 1 and key not in named else None


def _choice_columns(names: Sequence[str], prefix: str) -> dict[str, str]:
    """Columns that hold one choice each, by label: those that begin with the prefix, or whose names go A, B … or 1, 2 …"""
    if prefix:
        rest = {name: name[len(prefix) :] for name in names if name.casefold().startswith(prefix.casefold())}
        labels = {name: found[0] if (found := _LABEL.search(text)) else text for name, text in rest.items()}
        return {label.casefold(): name for name, label in labels.items()}
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if found := _CHOICE.fullmatch(name.strip()):
            groups.setdefault(found[1].casefold(), {})[found[2].casefold()] = name
    whole = [group for group in groups.values() if len(group) > 1 and _follow(list(group))]
    return max(whole, key=len, default={})


def _follow(labels: Sequence[str]) -> bool:
    codes = [int(label) if label.isdecimal() else ord(label) - ord("a") for label in labels]
    return codes in (list(range(len(codes))), list(range(1, len(codes) + 1)))


def _choices(row: Row, layout: Layout) -> tuple[tuple[str, ...], list[str]]:
    """A row's choices and their labels; empty cells are none."""
    if "choices" not in layout.columns:
        every = layout.choices or {name: name for name in layout.wrong}
        held = {label: text for label, name in every.items() if (text := cell(row.get(name)))}
        return tuple(held.values()), list(held)
    value = row.get(layout.columns["choices"])
    if value is None or value in ("", []):
        return (), []
    if isinstance(value, str):
        raise ValueError(f"'{layout.columns['choices']}' is {shown(value)}: give each choice its own column (A, B …)")
    choices, labels = labelled(value, layout.columns["choices"])
    return choices, [str(label).casefold() for label in labels]


def _first(rows: Sequence[Row], layout: Layout) -> int | None:
    """What answers count from where all are numbers: from 0 if one is 0, from 1 if one is the number of its choices.

    Where neither is there (or both), it is the label of the first column; in a list of choices 0, as the package datasets has it.
    """
    found = ((cell(row.get(layout.columns["answer"])), _size(row, layout)) for row in rows)
    counted = [(answer, size) for answer, size in found if answer and size]
    if not all(answer.isdecimal() for answer, _ in counted):
        return None
    zero, top = any(int(answer) == 0 for answer, _ in counted), any(int(answer) == size for answer, size in counted)
    label = next(iter(layout.choices), "0" if "choices" in layout.columns else "")
    return 0 if zero and not top else 1 if top and not zero else int(label) if label.isdecimal() else None


def _size(row: Row, layout: Layout) -> int:
    """How many choices a row has."""
    value = row.get(layout.columns.get("choices", ""))
    listed = value.get("text", value) if isinstance(value, Mapping) else value
    columns = sum(1 for name in layout.choices.values() if cell(row.get(name)))
    return len(listed) if isinstance(listed, list | Mapping) else columns


def _place(answer: str, choices: Sequence[str], labels: Sequence[str], first: int | None) -> int:
    """The choice that an answer names by its text, its number, or its column's label."""
    plain = [" ".join(visible(text).split()) for text in (answer, *choices)]
    by_text = plain.index(plain[0], 1) - 1 if plain[0] in plain[1:] else None
    named = _CHOICE.fullmatch(answer.strip("().: "))
    label = named[2].casefold() if named else answer.casefold()
    by_label = labels.index(label) if label in labels else None
    if answer.isdecimal() and first is not None:
        by_label = int(answer) - first if 0 <= int(answer) - first < len(choices) else None
    if by_text is not None and by_label not in (None, by_text):
        raise ValueError(f"the answer {answer!r} is one choice and stands for another: write the text of the right one")
    place = by_label if by_text is None else by_text
    if place is None:
        unclear = " (and whether numbers count from 0 or from 1 is not clear)" if answer.isdecimal() else ""
        raise ValueError(f"the answer {answer!r} is none of the choices, nor of {', '.join(labels)}{unclear}")
    return place


def _texts(value: Any, separator: str = "") -> tuple[str, ...]:
    """A list of texts, or the text of a cell, which may hold several."""
    if isinstance(value, list):
        return tuple(text for one in value if (text := cell(one)))
    parts = cell(value).split(separator) if separator else [cell(value)]
    return tuple(text for part in parts if (text := part.strip()))
