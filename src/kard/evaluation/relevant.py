"""What should be found for the questions that are evaluated: gold and silver passages, and the teacher's rationales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kard.artifacts import read_jsonl
from kard.data.passage import positions_of
from kard.data.question import Question, read_questions
from kard.recipe import Recipe
from kard.teacher.rationale import read_rationales


def relevant_passages(run: Path, questions: Sequence[Question]) -> dict[str, list[set[int]]]:
    """What should be found for each question: ``gold`` where the data names passages, and where there are rationales
    ``silver``, the passage that the method kard_silver reads, found by the question's first kept one, and
    ``silver_top_3``, the first three found by it, as the paper counts."""
    names = gold_positions(run, questions)
    gold = [{p for name in question.gold_passages for p in names.get(name, [])} for question in questions]
    by_rationale = first_silver(run)
    silver, top_3 = ([set(by_rationale.get(question.id, [])[:depth]) for question in questions] for depth in (1, 3))
    kinds = {"gold": gold, "silver": silver, "silver_top_3": top_3}
    return {name: sets for name, sets in kinds.items() if any(sets)}


def gold_positions(run: Path, questions: Iterable[Question]) -> dict[str, list[int]]:
    """Positions of the passages that questions name, by the passages' ids and their documents'."""
    return positions_of(run / "knowledge", {name for question in questions for name in question.gold_passages})


def evaluation_questions(recipe: Recipe, run: Path) -> list[Question]:
    """The questions that are answered to measure the methods: test, or dev where the recipe says so."""
    return read_questions(run / "questions" / f"{recipe.evaluation.split}.jsonl")


def first_silver(run: Path) -> dict[str, list[int]]:
    """Silver passages of each question's first rationale, a kept one if there is any (an oracle reads no answers off them)."""
    return {question: found[0] for question, found in _silver(run).items()}


def second_silver(run: Path) -> dict[str, list[int]]:
    """Those of another rationale, of questions that have one: how far silver passages depend on which rationale was written."""
    return {question: found[1] for question, found in _silver(run).items() if len(found) > 1}


def _silver(run: Path) -> dict[str, list[list[int]]]:
    found: dict[str, list[list[int]]] = {}
    rows = list(read_jsonl(run / "candidates" / "candidates.jsonl"))
    for row in sorted(rows, key=lambda row: row["status"] != "kept"):
        found.setdefault(row["question"], []).append(row["silver"])
    return found


def first_rationales(run: Path) -> dict[str, str]:
    """The rationale that `first_silver` is found by: the text of each question's first one, a kept one if there is any."""
    found: dict[str, str] = {}
    rationales = read_rationales(run / "rationales" / "rationales.jsonl")
    for rationale in sorted(rationales, key=lambda rationale: rationale.status != "kept"):
        if rationale.text:
            found.setdefault(rationale.question, rationale.text)
    return found
