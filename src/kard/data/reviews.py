"""What people decide on questions and rationales: an append-only file of decisions, what of it stands, and how far two agree."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from types import NoneType
from typing import Any

from kard.artifacts.files import Log
from kard.data.question import check_choices
from kard.data.textfile import cleaned, json_rows
from kard.errors import UserError

DECISIONS = ("accept", "mend", "reject")
UNDO = "undo"  # takes back the last decision of this reviewer on this item
MENDED = ("question", "choices", "answer", "rationale")
_NEEDED = ("id", "decision", "reviewer")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_NEEDED, (str,)),
    **dict.fromkeys(("question", "rationale"), (str, NoneType)),
    "choices": (list, NoneType),
    "answer": (int, str, NoneType),
}
Decision = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A question with its rationale, as a person reviews them.

    Attributes:
        id: The question's.
        kind: Which kind of question was generated; of a question that was not, its split.
        question: The text, without the choices.
        choices: The options, or empty for an open question.
        answer: As a question's; None: the documents do not answer it.
        passages: Ids of gold passages, or of their documents.
        status: ``kept``, or why it was not.
        reason: The status in words.
        rationale: May be empty.
    """

    id: str
    kind: str
    question: str
    choices: tuple[str, ...]
    answer: int | str | None
    passages: tuple[str, ...]
    status: str = "kept"
    reason: str = ""
    rationale: str = ""


def item_from_row(row: dict[str, Any]) -> Item:
    """An item from a row of ``generated.jsonl``."""
    choices, passages = (tuple(row.get(key) or ()) for key in ("choices", "passages"))
    reason, rationale = (str(row.get(key) or "") for key in ("reason", "rationale"))
    asked = (row["id"], row["kind"], row["question"])
    return Item(*asked, choices, row["answer"], passages, row["status"], reason, rationale)


def default_decisions(run: Path) -> Path:
    """The file of a run's decisions, where no other is named."""
    return run.absolute().parent / "reviewed.jsonl"


def read_decisions(path: Path) -> list[Decision]:
    """All decisions of a file, in their order.

    Raises:
        UserError: Names the line that is none.
    """
    rows = []
    for number, row in json_rows(path):
        for key, kinds in _TYPES.items():
            given = row.get(key)
            if isinstance(given, bool) or not isinstance(given, kinds) or (key in _NEEDED and not given):
                raise UserError(
                    f"{path}:{number}: '{key}' is missing, or not what it should be. Mend or remove the line."
                )
        if row["decision"] not in (*DECISIONS, UNDO):
            allowed = ", ".join((*DECISIONS, UNDO))
            raise UserError(f"{path}:{number}: 'decision' is '{row['decision']}'. Write one of {allowed}.")
        rows.append(row)
    return rows


def standing(rows: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    """For each item, what each reviewer decided and did not undo: their last decisions, the newest at the end."""
    made: dict[tuple[str, str], list[tuple[int, Decision]]] = {}
    for number, row in enumerate(rows):
        own = made.setdefault((row["id"], row["reviewer"]), [])
        if row["decision"] != UNDO:
            own.append((number, row))
        elif own:
            own.pop()
    stand: dict[str, dict[str, Decision]] = {}
    for _, row in sorted((own[-1] for own in made.values() if own), key=lambda one: one[0]):
        stand.setdefault(row["id"], {})[row["reviewer"]] = row
    return stand


def final(rows: Iterable[Decision]) -> dict[str, Decision]:
    """The decision that counts for each item: the newest that stands, whoever made it."""
    return {name: list(by.values())[-1] for name, by in standing(rows).items()}


def agreement(rows: Iterable[Decision]) -> list[dict[str, Any]]:
    """Cohen's kappa of each two reviewers, over what both have decided.

    Returns:
        For each pair their names, how many items ``both`` decided, how many the ``same`` way, and ``kappa``; None where it is not
        defined, such as where both decided everything the same way.
    """
    by: dict[str, dict[str, str]] = {}
    for name, decided in standing(rows).items():
        for reviewer, row in decided.items():
            by.setdefault(reviewer, {})[name] = row["decision"]
    found = []
    for first, second in combinations(sorted(by), 2):
        both = [(by[first][name], by[second][name]) for name in by[first] if name in by[second]]
        same = sum(one == other for one, other in both)
        found.append({"reviewers": [first, second], "both": len(both), "same": same, "kappa": _kappa(both)})
    return found


def _kappa(both: Sequence[tuple[str, str]]) -> float | None:
    """(p_o - p_e) / (1 - p_e) of the shares that are, and by chance would be, the same; scikit-learn's takes seconds to load."""
    counts = [Counter(side) for side in zip(*both, strict=True)]
    chance = sum(counts[0][name] * counts[1][name] for name in DECISIONS) / len(both) ** 2 if both else 1.0
    return None if chance == 1 else (sum(one == other for one, other in both) / len(both) - chance) / (1 - chance)


class Decisions:
    """The file of decisions, written by one command at a time: each is on the disk before anything goes on.

    Args:
        path: JSONL, made with the first decision.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        Log(path).read()  # a line that was being written when a process died is removed
        self.rows = read_decisions(path) if path.exists() else []

    def add(self, row: Decision) -> None:
        """Append a decision.

        Raises:
            OSError: It could not be written; the file is as it was.
        """
        row = cleaned(row, Counter())
        with open(self.path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            ends = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
            line = (b"" if ends else b"\n") + json.dumps(row, ensure_ascii=False).encode() + b"\n"
            try:
                if file.write(line) != len(line):
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(file.fileno())
            except OSError:
                os.truncate(self.path, size)
                raise
        self.rows.append(row)


def mended(item: Item, row: Decision) -> Item:
    """An item with what a decision changes in it; nothing where it mends nothing."""
    changes = {key: row[key] for key in MENDED if key in row} if row["decision"] == "mend" else {}
    if "choices" in changes:
        changes["choices"] = tuple(changes["choices"] or ())
    return replace(item, **changes)


def check_mended(item: Item, row: Decision) -> None:
    """Raise UserError where an item would be no question after it is mended."""
    new = mended(item, row)
    texts = (new.question, *new.choices)
    if not all(isinstance(text, str) and text.strip() for text in texts) or len(new.choices) == 1:
        raise UserError(
            "a question needs a text, and two choices or none. Fill in what is empty, or remove the choice."
        )
    right = new.answer if isinstance(new.answer, int) else None
    if new.choices and not (right is not None and 0 <= right < len(new.choices)):
        raise UserError("none of the choices is marked as the right one. Mark it.")
    if not new.choices and not (item.answer is None or (isinstance(new.answer, str) and new.answer.strip())):
        raise UserError("the answer is empty. Write it, or reject the question.")
    check_choices(new.choices, "choices", right)
