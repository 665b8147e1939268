"""Finding: the passages that are read for a question (KARD equation 5: retriever top κ*, reranker, top k)."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from kard.data.filters import EVERYTHING, Access, Restriction
from kard.data.passage import Passage
from kard.data.question import Question
from kard.errors import UserError
from kard.methods import Method, check_no_oracle
from kard.reranker.features import queries_of, score_features

if TYPE_CHECKING:
    from kard.recipe.recipe import Recipe
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker
    from kard.retrieval.retriever import Hits, Retriever
    from kard.run import Run


@dataclass(frozen=True)
class Found:
    """A passage that was considered for a question, with the scores that brought it there (None where there is none).

    `reranker` has the score features in it; `likelihood` is log p(question | passage) by the student, of those it was asked for;
    `information` is log p(question | passage) − log p(question), of a first one where confidences are calibrated; `by_choice` is
    the reranker's score for the question with each of its choices, of methods that rank choices.
    """

    passage: Passage
    retriever: float | None = None
    reranker: float | None = None
    likelihood: float | None = None
    information: float | None = None
    by_choice: tuple[float, ...] = ()

    def row(self) -> dict[str, Any]:
        """As predictions, reports and the command line show it."""
        passage = self.passage
        shown = {"id": passage.id, "title": passage.title, "text": passage.text, "source": passage.source}
        return {**shown, "retriever": self.retriever, "reranker": self.reranker, "likelihood": self.likelihood}


class Likelihoods(Protocol):
    """A student as the query likelihood asks it."""

    def question_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """log p(question | passage) of pairs of question and passage."""


@dataclass(frozen=True)
class QueryLikelihood:
    """Query likelihood: the first passages in the order of exp(f(d, x)/τ2) · p(x | d)^λ.

    Only passages that the reranker finds about as probable as its first one are looked at; all others keep their places.

    Attributes:
        student: Reads the passages.
        weight: λ.
        temperature: τ2.
    """

    student: Likelihoods
    weight: float
    temperature: float

    NEAR = 0.2  # at least so many times as probable as the first
    PASSAGES = 5  # most of a question that are looked at

    def ordered(self, questions: Sequence[Question], rows: Sequence[list[Found]]) -> list[list[Found]]:
        """The candidates of each question, best first, in their final order."""
        margin = -self.temperature * math.log(self.NEAR)
        close = [[item for item in row if _score(row[0]) - _score(item) <= margin] for row in rows]
        close = [row[: self.PASSAGES] if len(row) > 1 else [] for row in close]
        pairs = [(q.question, item.passage.full_text) for q, row in zip(questions, close, strict=True) for item in row]
        likely = iter(self.student.question_likelihoods(pairs))
        looked = [[replace(item, likelihood=next(likely)) for item in row] for row in close]
        return [[*sorted(some, key=self._place), *row[len(some) :]] for some, row in zip(looked, rows, strict=True)]

    def informed(self, questions: Sequence[Question], rows: Sequence[list[Found]]) -> list[list[Found]]:
        """The candidates, the first one of each question with its `information`."""
        asked = [(question.question, row) for question, row in zip(questions, rows, strict=True) if row]
        pairs = [(question, row[0].passage.full_text) for question, row in asked]
        read = self.student.question_likelihoods([*pairs, *((question, "") for question, _ in pairs)])
        gains = iter([given - alone for given, alone in zip(read[: len(pairs)], read[len(pairs) :], strict=True)])
        return [[replace(row[0], information=next(gains)), *row[1:]] if row else [] for row in rows]

    def ahead(self, first: Found, other: Found) -> float:
        """Log-odds of a passage against another one."""
        looks = [item.likelihood for item in (first, other) if item.likelihood is not None]
        by_look = self.weight * (looks[0] - looks[1]) if len(looks) == 2 else 0.0
        return (_score(first) - _score(other)) / self.temperature + by_look

    def _place(self, item: Found) -> float:
        return -(_score(item) / self.temperature + self.weight * (item.likelihood or 0.0))


@dataclass(frozen=True)
class Finder:
    """Finds passages for questions; no student writes here.

    Attributes:
        recipe: How many passages, which queries.
        passages: The knowledge base.
        retriever: None where no method reads passages.
        reranker: None where no method needs one.
        query_likelihood: The student's, after the reranker; None without one.
        documents: The version of the documents that is read.
        access: Finds the passages that a restriction leaves; None where there is no retriever.
    """

    recipe: Recipe
    passages: Sequence[Passage] = ()
    retriever: Retriever | None = None
    reranker: Reranker | CrossReranker | None = None
    query_likelihood: QueryLikelihood | None = field(default=None, compare=False)
    documents: int = 0
    access: Access | None = field(default=None, compare=False)

    @classmethod
    def of(cls, run: Run, methods: Sequence[Method], student: Likelihoods | None = None) -> Finder:
        """What a run finds passages with, as far as the methods need it; the query likelihood is the student's."""
        if not any(method.reads_passages for method in methods):
            return cls(run.recipe)
        retriever, reranker, weight = run.retriever(), None, None
        if any(method.reads == "reranker" for method in methods):
            reranker, weight = run.reranker(), run.recipe.reranker.likelihood_weight
        second = (
            QueryLikelihood(student, weight, reranker.temperature)
            if student and reranker and weight is not None
            else None
        )
        passages = run.passages()
        access = Access(passages.path.parent)
        return cls(run.recipe, passages, retriever, reranker, second, run.documents, access)

    def over(self, run: Run) -> Finder:
        """The same reranker and student over the documents of a run's other version."""
        if self.retriever is None:
            return self
        passages, reranker = run.passages(), self.reranker
        if reranker is not None:
            reranker = reranker.over(passages.texts)
        other = replace(self, passages=passages, retriever=run.retriever(), reranker=reranker, documents=run.documents)
        return replace(other, access=Access(passages.path.parent))

    def read(self, method: Method, questions: Sequence[Question], wanted: int | None = None) -> list[list[Found]]:
        """The passages that go into each question's prompt, best first.

        Args:
            method: Says what is read.
            questions: Their choices may be a part of the query.
            wanted: k; None: ``evaluation.passages``.
        """
        wanted = wanted or self.recipe.evaluation.passages
        return [row[:wanted] for row in self.candidates(method, questions, {}, wanted)]

    def candidates(
        self,
        method: Method,
        questions: Sequence[Question],
        steps: dict[str, float],
        wanted: int | None = None,
        restrictions: Sequence[Restriction] = (),
    ) -> list[list[Found]]:
        """All passages that are considered for each question, at least `wanted` (None: ``evaluation.passages``), best first, of
        those that its restriction leaves; the seconds of ``search`` and ``rerank`` are added to `steps`."""
        for restriction in set(restrictions):
            self.check(method, restriction)
        if method.reads == "nothing":
            return [[] for _ in questions]
        check_no_oracle(method)
        start = monotonic()
        reads = wanted or self.recipe.evaluation.passages
        hits = self.search(questions, 0 if method.reads == "reranker" else reads, restrictions)
        steps["search"] = steps.get("search", 0.0) + monotonic() - start
        if method.reads == "bm25":
            return [self._found(hit, hit.scores, None) for hit in hits]
        start = monotonic()
        rows = self._reranked(questions, hits, method.ranks_choices)
        rows = self._looked_at(questions, rows)
        steps["rerank"] = steps.get("rerank", 0.0) + monotonic() - start
        return rows

    def without(
        self,
        method: Method,
        questions: Sequence[Question],
        rows: Sequence[list[Found]],
        documents: Sequence[Set[str]],
    ) -> list[list[Found]]:
        """The `candidates` of each question as they are without some documents, best first.

        Args:
            method: Says what is read.
            questions: What is asked.
            rows: All candidates of each.
            documents: For each question the ids of those that are taken out.
        """
        left = []
        for row, gone in zip(rows, documents, strict=True):
            some = [replace(one, likelihood=None, information=None) for one in row if one.passage.document not in gone]
            left.append(sorted(some, key=_score, reverse=True))
        return self._looked_at(questions, left) if method.reads == "reranker" else left

    def _looked_at(self, questions: Sequence[Question], rows: list[list[Found]]) -> list[list[Found]]:
        if self.query_likelihood is None:
            return rows
        rows = self.query_likelihood.ordered(questions, rows)
        return rows if self.recipe.evaluation.abstain.risk is None else self.query_likelihood.informed(questions, rows)

    def search(
        self, questions: Sequence[Question], least: int = 0, restrictions: Sequence[Restriction] = ()
    ) -> list[Hits]:
        """The retriever's κ* candidates of each question, or more where `least` is more."""
        assert self.retriever is not None
        section = self.recipe.retriever
        places: dict[Restriction, list[int]] = {}
        for place in range(len(questions)):
            places.setdefault(restrictions[place] if restrictions else EVERYTHING, []).append(place)
        hits: dict[int, Hits] = {}
        for restriction, own in places.items():
            queries = [questions[place].query(section.query) for place in own]
            found = self.retriever.search(queries, max(section.candidates, least), self.allowed(restriction))
            hits |= zip(own, found, strict=True)
        return [hits[place] for place in range(len(questions))]

    def check(self, method: Method, restriction: Restriction) -> None:
        """Raise UserError where a filter fits no document's metadata, or the method reads no passages that it could choose."""
        if method.reads_passages:
            self.allowed(restriction)
        elif restriction.filter:
            raise UserError(f"filter: {method.name} reads no passages. Leave it out, or choose another method.")

    def allowed(self, restriction: Restriction) -> np.ndarray | None:
        """Whether each passage may be read; None: all."""
        if restriction == EVERYTHING:
            return None
        assert self.access is not None
        return self.access.allowed(restriction)

    def _reranked(self, questions: Sequence[Question], hits: Sequence[Hits], by_choice: bool) -> list[list[Found]]:
        """Each question's candidates by the reranker's scores, with the score features added; `by_choice` keeps those of each
        choice, which have no features. Yes and no are in no passage: nothing speaks for one of them."""
        assert self.reranker is not None
        section = self.recipe.reranker
        scores = self.reranker.score_each(
            [queries_of(q, section.choices) for q in questions], [hit.positions.tolist() for hit in hits]
        )
        features = score_features(section, questions, hits, self.passages)
        found = []
        for question, hit, row, feature in zip(questions, hits, scores, features, strict=True):
            best, kept = row.max(axis=0) + feature, by_choice and section.choices == "each" and not question.is_yes_no
            found.append(self._found(hit, best, best, row.T.tolist() if kept else ()))
        return found

    def support(self, considered: Sequence[Found]) -> np.ndarray:
        """What the considered passages are worth to each choice: the mean of the reranker's k best scores for the question
        with this choice, over τ2 (k: ``evaluation.passages``); one 0 for all where it does not read each choice by itself."""
        if not considered or not considered[0].by_choice or self.reranker is None:
            return np.zeros(1)
        scores = np.sort([one.by_choice for one in considered], axis=0)[-self.recipe.evaluation.passages :]
        return np.asarray(scores.mean(axis=0) / self.reranker.temperature)

    def signals(self, considered: Sequence[Found]) -> dict[str, float]:
        """What speaks for the first of the passages that were considered.

        Returns:
            Nothing where there are none; ``score``: its score; ``lead``: log-odds of its document against all others by the
            scores, each document counting by its best passage; ``information``: where there is a second look.
        """
        if not considered:
            return {}
        first, behind = considered[0], dict[str, float]()
        for item in considered[1:]:
            if item.passage.document != first.passage.document:
                ahead = self._ahead(first, item)
                behind[item.passage.document] = min(behind.get(item.passage.document, ahead), ahead)
        nothing = Found(first.passage, 0.0, 0.0)
        lead = -float(np.logaddexp.reduce([-ahead for ahead in behind.values() or [self._ahead(first, nothing)]]))
        known = {} if first.information is None else {"information": first.information}
        return {"score": _score(first), "lead": lead, **known}

    def _ahead(self, first: Found, other: Found) -> float:
        second_look = self.query_likelihood
        return second_look.ahead(first, other) if second_look is not None else _score(first) - _score(other)

    def _found(
        self, hit: Hits, by: np.ndarray, reranked: np.ndarray | None, by_choice: Sequence[Sequence[float]] = ()
    ) -> list[Found]:
        # Equal scores keep the retriever's order: Python's sort is stable.
        order = sorted(range(len(by)), key=lambda place: -by[place])
        return [
            Found(
                self.passages[hit.positions[place]],
                float(hit.scores[place]),
                None if reranked is None else float(reranked[place]),
                by_choice=tuple(by_choice[place]) if by_choice else (),
            )
            for place in order
        ]


def _score(item: Found) -> float:
    """The score that a passage is ranked by."""
    return item.reranker if item.reranker is not None else item.retriever or 0.0
