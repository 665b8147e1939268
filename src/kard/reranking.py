"""The stage that trains the reranker, and how its rankings are judged before and after."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kard.artifacts import read_jsonl, write_json, write_jsonl
from kard.data.passage import read_passages
from kard.data.question import Question, read_questions
from kard.errors import UserError
from kard.evaluation.relevant import evaluation_questions, relevant_passages, second_silver
from kard.kard import Found, reranker_queries
from kard.parts import passage_store
from kard.progress import say
from kard.recipe import Recipe, RerankerSection
from kard.reranker.features import priors
from kard.retrieval.index import load_retriever

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.learners import CandidateSet
    from kard.reranker.model import Reranker

SHOWN_DEPTH = 10


def make_reranker(recipe: Recipe, run: Path, folder: Path) -> None:
    """reranker: trained on the candidate sets of kept rationales; also how it ranks evaluation questions before and after."""
    from kard.evaluation.retrieval import evaluate_ranking
    from kard.reranker.load import new_reranker
    from kard.reranker.model import Reranker
    from kard.reranker.training import remove_checkpoints, train_reranker

    section = recipe.reranker
    texts = read_passages(run / "knowledge" / "passages.jsonl").texts
    reranker = new_reranker(section, passage_store(run, recipe), texts, recipe.seed)
    sets = candidate_sets(recipe, run)
    judged = Judged.of(recipe, run, evaluation_questions(recipe, run))
    dev = Judged.of(recipe, run, read_questions(run / "questions" / "dev.jsonl")) if section.early_stopping else None
    if section.train == "question":
        encode_ahead(reranker, section.encode_ahead)
    in_sets = [p for row in sets for p in row.positions] if section.train == "question" else []
    reranker.prepare([*in_sets, *judged.positions, *(dev.positions if dev else [])])
    untrained = judged.ranked(reranker)
    dev_hits = partial(dev.hits, reranker) if dev else None
    trained = train_reranker(reranker, sets, section, recipe.seed, folder, dev_hits)
    if section.train == "both":
        encode_ahead(trained, section.encode_ahead)
    scores = trained.score(judged.queries, judged.found)
    rankings = {
        recipe.retriever.kind: judged.found,
        "reranker_untrained": untrained,
        "reranker": judged.in_order(scores),
    }
    if section.has_priors:
        rankings["reranker_priors"] = judged.in_order([a + b for a, b in zip(scores, judged.priors, strict=True)])
    rows = evaluate_ranking(rankings, judged.relevant, recipe.seed)
    rows += agreement(run, judged)
    write_json(folder / "retrieval.json", rows)
    write_jsonl(folder / "rankings.jsonl", ranking_rows(run, judged.questions, rankings, judged.relevant))
    write_reranker_card(folder / "model", section, rows)
    remove_checkpoints(folder)
    if (
        isinstance(reranker, Reranker) and reranker is not trained
    ):  # its own vectors are beside it: these are no longer read
        shutil.rmtree(reranker.vectors.folder)


def agreement(run: Path, judged: Judged) -> list[dict[str, Any]]:
    """How often another rationale of a question, which has seen the answer, finds the silver passage: how far silver passages
    agree with themselves, a reference and no bound. Nothing where questions have one rationale each."""
    from kard.evaluation.retrieval import evaluate_ranking

    other = second_silver(run)
    places = [place for place, question in enumerate(judged.questions) if question.id in other]
    if not places or "silver" not in judged.relevant:
        return []
    rankings = {"other_rationale": [other[judged.questions[place].id] for place in places]}
    return evaluate_ranking(rankings, {"silver": [judged.relevant["silver"][place] for place in places]})


def judge_second_look(
    recipe: Recipe, run: Path, questions: Sequence[Question], rows: Sequence[Sequence[Found]], folder: Path
) -> None:
    """How the candidates are ranked after the student's second look, beside the orders before: ``retrieval.json``.

    Args:
        recipe: The recipe.
        run: The run's folder.
        questions: Whose candidates these are.
        rows: The candidates of each, in their final order.
        folder: Gets the file.
    """
    from kard.evaluation.retrieval import evaluate_ranking

    passages = read_passages(run / "knowledge" / "passages.jsonl")
    number: dict[str, int] = defaultdict(count().__next__)
    relevant = {
        kind: [{number[passages[p].id] for p in right} for right in sets]
        for kind, sets in relevant_passages(run, questions).items()
    }
    orders: dict[str, Callable[[Found], float]] = {
        recipe.retriever.kind: lambda item: -(item.retriever or 0.0),
        "reranker_priors" if recipe.reranker.has_priors else "reranker": lambda item: -(item.reranker or 0.0),
        "reranker_likelihood": lambda item: 0.0,
    }
    rankings = {
        name: [[number[item.passage.id] for item in sorted(row, key=key)] for row in rows]
        for name, key in orders.items()
    }
    judged = evaluate_ranking(rankings, relevant, recipe.seed)
    write_json(folder / "retrieval.json", [row for row in judged if row["name"] == "reranker_likelihood"])


def candidate_sets(recipe: Recipe, run: Path) -> list[CandidateSet]:
    """What the reranker learns from: the candidate sets of the training questions' kept rationales."""
    from kard.reranker.learners import CandidateSet

    section = recipe.reranker
    questions = {q.id: q for q in read_questions(run / "questions" / "train.jsonl")[: section.train_questions]}
    return [
        CandidateSet(
            reranker_queries(questions[row["question"]], section.choices),
            tuple(row["candidates"]),
            tuple(row["scores"]),
            min(section.rationale_candidates, len(row["silver"])),
        )
        for row in read_jsonl(run / "candidates" / "candidates.jsonl")
        if row["status"] == "kept" and row["question"] in questions
    ]


def encode_ahead(reranker: Reranker | CrossReranker, megabytes: float | None) -> None:
    """Encode the whole knowledge base if its vectors fit into the budget."""
    from kard.reranker.cross import CrossReranker

    if megabytes is None or isinstance(reranker, CrossReranker):
        return
    if not reranker.vectors.ensure_all(megabytes):
        say("  the knowledge base's vectors do not fit into reranker.encode_ahead: only what is asked for is encoded")


@dataclass(frozen=True)
class Judged:
    """Questions with their candidates by the retriever, and what should be found.

    Attributes:
        questions: In the order of everything else here.
        queries: As the reranker reads them.
        found: Positions of the candidates, best first.
        relevant: See `relevant_passages`.
        priors: What is known of the candidates (`kard.reranker.features`); of a file's, nothing.
    """

    questions: list[Question]
    queries: list[tuple[str, ...]]
    found: list[list[int]]
    relevant: dict[str, list[set[int]]]
    priors: Sequence[np.ndarray] = ()

    @classmethod
    def of(cls, recipe: Recipe, run: Path, questions: list[Question]) -> Judged:
        """Search candidates for questions of a run."""
        queries = [question.query(recipe.retriever.query) for question in questions]
        hits = load_retriever(recipe.retriever, run / "index").search(queries, recipe.retriever.candidates)
        forms = [reranker_queries(question, recipe.reranker.choices) for question in questions]
        known = priors(recipe.reranker, questions, hits, read_passages(run / "knowledge" / "passages.jsonl"))
        found = [hit.positions.tolist() for hit in hits]
        return cls(questions, forms, found, relevant_passages(run, questions), known)

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

    def hits(self, reranker: Reranker | CrossReranker) -> float:
        """Hits@1 against gold passages, or silver ones where no gold is named."""
        from kard.evaluation.retrieval import evaluate_ranking

        if not self.relevant:
            raise UserError(
                "reranker.early_stopping: no dev question names gold passages or has a rationale. Set it to null."
            )
        return float(evaluate_ranking({"now": self.ranked(reranker)}, self.relevant)[0]["hits"]["1"])


def write_reranker_card(
    folder: Path, section: RerankerSection, rows: Sequence[dict[str, Any]], from_file: bool = False
) -> None:
    """The model card beside the reranker's weights."""
    from kard.report.card import render_reranker_card

    (folder / "README.md").write_text(render_reranker_card(section, rows, from_file), encoding="utf-8")


def ranking_rows(
    run: Path,
    questions: Sequence[Question],
    rankings: Mapping[str, Sequence[Sequence[int]]],
    relevant: Mapping[str, Sequence[set[int]]],
) -> Iterator[dict[str, Any]]:
    """What each question's candidates look like in each order: the first passages, and the places of gold and silver ones."""
    from kard.evaluation.retrieval import first_rank

    passages = read_passages(run / "knowledge" / "passages.jsonl")
    for number, question in enumerate(questions):
        orders = {name: ranking[number] for name, ranking in rankings.items()}
        yield {
            "question": question.id,
            "candidates": len(orders["reranker"]),
            **{kind: sorted(passages[p].id for p in sets[number]) for kind, sets in relevant.items()},
            "ranks": {
                kind: {name: first_rank(order, sets[number]) for name, order in orders.items()}
                for kind, sets in relevant.items()
                if sets[number]
            },
            "first": {name: [passages[p].id for p in order[:SHOWN_DEPTH]] for name, order in orders.items()},
        }
