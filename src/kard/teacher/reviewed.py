"""What people decided about generated questions (``questions.reviewed``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kard.data.readers.jsonl import question_of, read_user_jsonl, text_of
from kard.errors import UserError
from kard.progress import say
from kard.teacher.generated import Generated

DECISIONS = ("accept", "mend", "reject")
_MENDED = ("question", "choices", "answer")


def read_decisions(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Where each question's last decision stands, and its row: ``id, decision, reviewer`` and, as far as they are mended,
    ``question, choices, answer, rationale``.

    Raises:
        UserError: Names the line of a row that is no decision.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, row in read_user_jsonl(path):
        where = f"{path}:{number}"
        if (decision := text_of(row, "decision", where)) not in DECISIONS:
            raise UserError(f"{where}: 'decision' is '{decision}'. Write one of {', '.join(DECISIONS)}.")
        text_of(row, "reviewer", where)
        found[text_of(row, "id", where)] = where, row
    return found


def reviewed(made: Sequence[Generated], decisions: Mapping[str, tuple[str, dict[str, Any]]]) -> list[Generated]:
    """The questions after what people decided: accepted and mended ones are kept whatever was found, rejected ones are not.

    Raises:
        UserError: An accepted question is none; names its line.
    """
    if missing := decisions.keys() - {one.id for one in made}:
        say(f"  {len(missing):,} of {len(decisions):,} decisions are about questions that are not asked for any more")
    return [_decided(one, *decisions[one.id]) if one.id in decisions else one for one in made]


def _decided(one: Generated, where: str, row: dict[str, Any]) -> Generated:
    one = replace(one, reviewer=row["reviewer"])
    if row["decision"] == "reject":
        return one.rejected("rejected", f"rejected by {one.reviewer}")
    own = {"id": one.id, "question": one.question, "choices": list(one.choices), "answer": one.answer}
    asked = own | {key: row[key] for key in _MENDED if row.get(key) is not None}
    if one.kind == "unanswerable":
        return replace(one, question=text_of(asked, "question", where), status="kept", reason="")
    read = question_of(asked, where)
    rationale = row.get("rationale")
    return replace(
        one,
        question=read.question,
        choices=read.choices,
        answer=read.answer,
        status="kept",
        reason="",
        rationale=one.rationale if rationale is None else str(rationale),
    )
