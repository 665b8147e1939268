"""What a teacher gives: drafts as they came, and rationales with a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from kard.artifacts.files import read_jsonl, write_jsonl

Status = Literal[
    "kept",
    "wrong_answer",
    "refused",
    "truncated",
    "duplicate",
    "too_short",
    "too_long",
    "leak",
    "unverified",
    "error",
]


@dataclass(frozen=True)
class Draft:
    """What a teacher gave for one question, before it is judged.

    Attributes:
        text: As it was written, empty where there is none.
        finish_reason: Why the model stopped, as the endpoint said it; empty where no one said.
        failure: Why there is no text; empty where there is one.
        usage: Tokens and seconds of its request, as far as they are known; of several from one request the first has them.
    """

    text: str
    finish_reason: str = ""
    failure: str = ""
    usage: dict[str, Any] = field(default_factory=dict)


class Judged(Protocol):
    """What a teacher gave, with what became of it."""

    @property
    def status(self) -> str:
        """``kept``, or why it is not used."""

    @property
    def reason(self) -> str:
        """The status in words."""


@dataclass(frozen=True)
class Rationale:
    """One explanation of one question's answer.

    Attributes:
        id: Question id, a slash, and its number from 0.
        question: The question's id.
        text: The explanation, without a final statement of the answer.
        status: ``kept``, or why it is not used for training.
        reason: The status in words, with what was found; empty where it was kept.
        source: ``recorded``, ``extractive``, or the model's name.
        usage: As in its draft.
        kind: How it reasons: constructive, eliminating, other; empty where there is no text.
        original: The text before ``teacher.rewrite``; empty where it was left as it is.
    """

    id: str
    question: str
    text: str
    status: Status = "kept"
    reason: str = ""
    source: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    original: str = ""


def write_rationales(path: Path, rationales: Iterable[Rationale]) -> None:
    """Write rationales as JSONL, kept and rejected alike."""
    write_jsonl(path, (asdict(rationale) for rationale in rationales))


def read_rationales(path: Path) -> list[Rationale]:
    """Read rationales that `write_rationales` wrote."""
    return [Rationale(**row) for row in read_jsonl(path)]


def counts_of(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """How many have which status, with one reason each; the kept ones first: ``status, count, reason_example``."""
    counts = Counter(row.status for row in rows)
    reasons = {row.status: row.reason for row in reversed(rows)}
    order = sorted(counts, key=lambda status: (status != "kept", -counts[status]))
    return [{"status": status, "count": counts[status], "reason_example": reasons[status]} for status in order]
