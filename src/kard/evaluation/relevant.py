"""What should be found for the questions that are evaluated: gold and silver passages, and the teacher's rationales."""

from __future__ import annotations

from collections.abc import Sequence

from kard.data.question import Question
from kard.run import Run


def relevant_passages(run: Run, questions: Sequence[Question]) -> dict[str, list[set[int]]]:
    """What should be found for each question: ``gold`` where the data names passages, and where there are rationales
    ``silver``, the passage that the method kard_silver reads, found by the question's first kept one, and
    ``silver_top_3``, the first three found by it, as the paper counts."""
    names = run.named(questions)
    gold = [{p for name in question.gold_passages for p in names.get(name, [])} for question in questions]
    by_rationale = first_silver(run)
    silver, top_3 = ([set(by_rationale.get(question.id, [])[:depth]) for question in questions] for depth in (1, 3))
    kinds = {"gold": gold, "silver": silver, "silver_top_3": top_3}
    return {name: sets for name, sets in kinds.items() if any(sets)}


def first_silver(run: Run) -> dict[str, list[int]]:
    """Silver passages of each question's first rationale, a kept one if there is any (an oracle reads no answers off them)."""
    return {question: found[0] for question, found in _silver(run).items()}


def second_silver(run: Run) -> dict[str, list[int]]:
    """Those of another rationale, of questions that have one: how far silver passages depend on which rationale was written."""
    return {question: found[1] for question, found in _silver(run).items() if len(found) > 1}


def _silver(run: Run) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    for row in sorted(run.candidates(), key=lambda row: row.status != "kept"):
        found.setdefault(row.question, []).append(row.silver)
    return found


def first_rationales(run: Run) -> dict[str, str]:
    """The rationale that `first_silver` is found by: the text of each question's first one, a kept one if there is any."""
    found: dict[str, str] = {}
    for rationale in sorted(run.rationales(), key=lambda rationale: rationale.status != "kept"):
        if rationale.text:
            found.setdefault(rationale.question, rationale.text)
    return found
