"""What people decided about generated questions (``questions.reviewed``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kard.data.readers.jsonl import question_of, text_of
from kard.data.reviews import MENDED, Decision, final, read_decisions
from kard.progress import say
from kard.teacher.generated import Generated


def reviewed(made: Sequence[Generated], path: Path) -> list[Generated]:
    """The questions after what people decided: accepted and mended ones are kept whatever was found, rejected ones are not.

    Args:
        made: All questions.
        path: What `kard review` writes; the newest decision about a question counts.

    Raises:
        UserError: A line of the file is no decision, or an accepted question is none: names line or id.
    """
    decisions = final(read_decisions(path))
    if missing := decisions.keys() - {one.id for one in made}:
        say(f"  {len(missing):,} of {len(decisions):,} decisions are about questions that are not asked for any more")
    return [_decided(one, decisions[one.id], path) if one.id in decisions else one for one in made]


def _decided(one: Generated, row: Decision, path: Path) -> Generated:
    one, where = replace(one, reviewer=row["reviewer"]), f"{path}, id '{one.id}'"
    if row["decision"] == "reject":
        return one.rejected("rejected", f"rejected by {one.reviewer}")
    changes = {key: row[key] for key in MENDED if key in row} if row["decision"] == "mend" else {}
    asked = {"id": one.id, "question": one.question, "choices": list(one.choices), "answer": one.answer} | changes
    rationale = asked.pop("rationale", one.rationale) or ""
    one = replace(one, status="kept", reason="", rationale=rationale)
    if one.kind == "unanswerable":
        return replace(one, question=text_of(asked, "question", where))
    read = question_of(asked, where)
    return replace(one, question=read.question, choices=read.choices, answer=read.answer)
