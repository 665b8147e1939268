"""What a row of somebody else's format holds: each value is checked, and a ValueError says what it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from kard.data.question import Question

Row = Mapping[str, Any]


def text_in(row: Row, column: str) -> str:
    """A row's text; ValueError where it is none, or blank."""
    found = row[column]
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"'{column}' is {shown(found)}, and should be a text")
    return found


def fact_in(row: Row, column: str) -> tuple[str, ...]:
    """A row's text, or texts, as a rationale; none where it has none."""
    found = row[column]
    texts = [found] if isinstance(found, str) else [] if found is None else found
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"'{column}' is {shown(found)}, and should be a text or a list of texts")
    joined = " ".join(text for text in texts if text.strip())
    return (joined,) if joined else ()


def place_of(value: object, allowed: Sequence[object], column: str) -> int:
    """Which of the allowed values a column holds; ValueError where it is none of them (True is not 1 here)."""
    places = [place for place, one in enumerate(allowed) if type(one) is type(value) and one == value]
    if len(places) != 1:
        raise ValueError(f"'{column}' is {shown(value)}, and should be one of {', '.join(map(repr, allowed))}")
    return places[0]


def shown(value: object) -> str:
    """What was found, not longer than a message should be."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + " …"


def labelled(found: object, column: str = "choices") -> tuple[tuple[str, ...], list[object]]:
    """Choices with their labels: of texts and labels in two lists, a list of both, texts by label, or texts alone (A, B …)."""
    if isinstance(found, Mapping) and found.keys() >= {"text", "label"}:
        texts, labels = list(found["text"]), list(found["label"])
    elif isinstance(found, Mapping):
        texts, labels = list(found.values()), list(found)
    elif isinstance(found, list) and all(isinstance(one, Mapping) for one in found):
        texts, labels = ([one[key] for one in found] for key in ("text", "label"))
    else:
        texts = list(found) if isinstance(found, list) else []
        labels = list(ascii_uppercase[: len(texts)])
    if len(texts) != len(labels) or len(texts) < 2 or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(
            f"'{column}' is {shown(found)}, and should have a label and a text for each of several choices"
        )
    return tuple(texts), labels


def lettered(kind: str, row: Row, text: str, rationales: tuple[str, ...] = ()) -> Question:
    """A question of the Allen Institute's sets: choices with labels (letters, or digits in some), and the right one's label."""
    choices, labels = labelled(row["choices"])
    return Question(
        id=f"{kind}:{text_in(row, 'id')}",
        question=text,
        choices=choices,
        answer=place_of(row["answerKey"], labels, "answerKey"),
        rationales=rationales,
    )


def without_stem(row: Row) -> Row:
    """A row of the Allen Institute's own files, whose question holds stem and choices, as the hub has it."""
    inner = row.get("question")
    return {**row, "question_stem": inner["stem"], "choices": inner["choices"]} if isinstance(inner, Mapping) else row
