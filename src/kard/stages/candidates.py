"""candidates: for each rationale its silver passages, and D̃ with the rationale's scores (KARD equations 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kard.artifacts.files import write_jsonl
from kard.data.splits import SPLITS
from kard.recipe.recipe import Recipe
from kard.run import Candidates, Run

SILVER_DEPTH = 10


def make_candidates(run: Run, folder: Path) -> None:
    """Search by every rationale that has a text, and by its question."""
    recipe, retriever = run.recipe, run.retriever()
    questions = {question.id: question for name in SPLITS for question in run.questions(name)}
    rationales = [row for row in run.rationales() if row.text]
    texts = [rationale.text for rationale in rationales]
    asked = list(dict.fromkeys(rationale.question for rationale in rationales))
    queries = [questions[name].query(recipe.retriever.query) for name in asked]
    by_rationale = [hits.positions.tolist() for hits in retriever.search(texts, silver_depth(recipe))]
    found = retriever.search(queries, recipe.reranker.question_candidates)
    by_question = {name: hits.positions.tolist() for name, hits in zip(asked, found, strict=True)}
    sets = [
        candidate_positions(silver[: recipe.reranker.rationale_candidates], by_question[rationale.question])
        for rationale, silver in zip(rationales, by_rationale, strict=True)
    ]

    def rows() -> Iterator[dict[str, Any]]:
        every = retriever.scores(texts, sets)
        for rationale, silver, chosen, scores in zip(rationales, by_rationale, sets, every, strict=True):
            rounded = [float(f"{score:.6g}") for score in scores]
            yield asdict(Candidates(rationale.id, rationale.question, rationale.status, silver, chosen, rounded))

    write_jsonl(folder / "candidates.jsonl", rows())


def candidate_positions(by_rationale: Iterable[int], by_question: Iterable[int]) -> list[int]:
    """D̃ = top-κ1 by rationale ∪ top-κ2 by question, without duplicates (KARD equation 4)."""
    return list(dict.fromkeys([*by_rationale, *by_question]))


def silver_depth(recipe: Recipe) -> int:
    """How many passages by rationale are kept: enough for silver passages, candidates and Hits@10."""
    return max(SILVER_DEPTH, recipe.reranker.rationale_candidates, recipe.student.passages, recipe.evaluation.passages)
