"""How candidates are ranked, before and after: questions with their candidates, and what should be found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from kard.data.question import Question
from kard.evaluation.relevant import relevant_passages, second_silver
from kard.evaluation.retrieval import evaluate_ranking, first_rank
from kard.finder import Finder, Found
from kard.reranker.features import queries_of, score_features
from kard.run import Run

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker

SHOWN_DEPTH = 10


@dataclass(frozen=True)
class Judged:
    """Questions with their candidates by the retriever, and what should be found.

    Attributes:
        questions: In the order of everything else here.
        queries: As the reranker reads them.
        found: Positions of the candidates, best first.
        relevant: See `relevant_passages`.
        features: What is added to the candidates' scores (`kard.reranker.features`); of a file's, nothing.
    """

    questions: list[Question]
    queries: list[tuple[str, ...]]
    found: list[list[int]]
    relevant: dict[str, list[set[int]]]
    features: Sequence[np.ndarray] = ()

    @classmethod
    def of(cls, run: Run, questions: list[Question]) -> Judged:
        """Search candidates for questions of a run."""
        finder, section = Finder(run.recipe, run.passages(), run.retriever()), run.recipe.reranker
        hits = finder.search(questions)
        queries = [queries_of(question, section.choices) for question in questions]
        features = score_features(section, questions, hits, finder.passages)
        found = [hit.positions.tolist() for hit in hits]
        return cls(questions, queries, found, relevant_passages(run, questions), features)

    @property
    def positions(self) -> list[int]:
        """All candidates."""
        return [position for row in self.found for position in row]

    def ranked(self, reranker: Reranker | CrossReranker) -> list[list[int]]:
        """The candidates in the reranker's order."""
        return self.in_order(reranker.score(self.queries, self.found))

    def in_order(self, scores: Sequence[np.ndarray]) -> list[list[int]]:
        """The candidates by falling score; equal scores keep the retriever's order."""
        return [
            np.array(row, dtype=np.int64)[np.argsort(-of_row, kind="stable")].tolist()
            for row, of_row in zip(self.found, scores, strict=True)
        ]


def agreement(run: Run, judged: Judged) -> list[dict[str, Any]]:
    """How often another rationale of a question, which has seen the answer, finds the silver passage: how far silver passages
    agree with themselves, a reference and no bound. Nothing where questions have one rationale each."""
    other = second_silver(run)
    places = [place for place, question in enumerate(judged.questions) if question.id in other]
    if not places or "silver" not in judged.relevant:
        return []
    rankings = {"other_rationale": [other[judged.questions[place].id] for place in places]}
    return evaluate_ranking(rankings, {"silver": [judged.relevant["silver"][place] for place in places]})


def ranked_by_likelihood(
    run: Run, questions: Sequence[Question], rows: Sequence[Sequence[Found]]
) -> list[dict[str, Any]]:
    """How the candidates are ranked after the query likelihood, beside the orders before.

    Args:
        run: The run.
        questions: Whose candidates these are.
        rows: The candidates of each, in their final order.

    Returns:
        The last order's rows of `evaluate_ranking`.
    """
    passages = run.passages()
    number: dict[str, int] = defaultdict(count().__next__)
    relevant = {
        kind: [{number[passages[p].id] for p in right} for right in sets]
        for kind, sets in relevant_passages(run, questions).items()
    }
    section = run.recipe.reranker
    orders: dict[str, Callable[[Found], float]] = {
        run.recipe.retriever.kind: lambda item: -(item.retriever or 0.0),
        "reranker_features" if section.has_score_features else "reranker": lambda item: -(item.reranker or 0.0),
        "reranker_likelihood": lambda item: 0.0,
    }
    rankings = {
        name: [[number[item.passage.id] for item in sorted(row, key=key)] for row in rows]
        for name, key in orders.items()
    }
    judged = evaluate_ranking(rankings, relevant, run.recipe.seed)
    return [row for row in judged if row["name"] == "reranker_likelihood"]


def ranking_rows(run: Run, judged: Judged, rankings: Mapping[str, Sequence[Sequence[int]]]) -> Iterator[dict[str, Any]]:
    """What each question's candidates look like in each order: the first passages, and the places of gold and silver ones."""
    passages = run.passages()
    for number, question in enumerate(judged.questions):
        orders = {name: ranking[number] for name, ranking in rankings.items()}
        right = {kind: sets[number] for kind, sets in judged.relevant.items()}
        yield {
            "question": question.id,
            "candidates": len(orders["reranker"]),
            **{kind: sorted(passages[p].id for p in positions) for kind, positions in right.items()},
            "ranks": {
                kind: {name: first_rank(order, positions) for name, order in orders.items()}
                for kind, positions in right.items()
                if positions
            },
            "first": {name: [passages[p].id for p in order[:SHOWN_DEPTH]] for name, order in orders.items()},
        }
