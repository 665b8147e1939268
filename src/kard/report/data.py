"""All that a report shows, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kard.citations import Citation


@dataclass(frozen=True)
class Sample:
    """One test question as a method answered it.

    Attributes:
        question: The text, without the choices.
        choices: The options, or empty for an open question.
        gold: The right answer's text.
        method: Name of the method that answered.
        passages: What it read, best first: objects with id, title, text, source, and the scores retriever and reranker
            (None where there is none).
        rationale: The explanation that it wrote, may be empty.
        answer: The answer's text, or None where none could be read off what it wrote.
        correct: Whether the answer is right.
        citations: The rationale's sentences with what says so in the passages; none where nothing was read.
    """

    question: str
    choices: tuple[str, ...]
    gold: str
    method: str
    passages: list[dict[str, Any]]
    rationale: str
    answer: str | None
    correct: bool
    citations: Sequence[Citation] = ()


@dataclass(frozen=True)
class MistakeSample:
    """A wrong answer, what went wrong with it, and its rationale's support in the passages (a share of its words, or None)."""

    what: str
    support: float | None
    sample: Sample


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        results: The content of results.json: accuracies, differences and shares are fractions, p values are
            Holm-corrected.
        rationales: One object for each status: status, count, reason_example.
        teacher: A sentence that says who explained the answers.
        samples: Some test questions to read.
        mistakes: Some wrong answers of each method and class.
        credits: Sources and licences, one sentence each.
        recipe_yaml: The recipe of the run, as `dump_recipe` writes it.
    """

    results: dict[str, Any]
    rationales: list[dict[str, Any]]
    teacher: str
    samples: list[Sample]
    mistakes: list[MistakeSample]
    credits: list[str]
    recipe_yaml: str
