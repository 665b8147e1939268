"""What is trained, for each kind of reranker: how its candidates are scored inside a step, and what a batch then holds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kard.models.training import EpochOrder
from kard.recipe.sections import RerankerSection
from kard.reranker.adapters import make_trainable
from kard.reranker.candidates import CandidateSet
from kard.reranker.cross import CrossReranker
from kard.reranker.model import Reranker

_LOW = -1e4


def kl_loss(target: Tensor, scores: Tensor, present: Tensor, tau_rationale: float, tau_question: float) -> Tensor:
    """KL(Q ‖ P) with Q = softmax(target/τ1) and P = softmax(scores/τ2), averaged over rationales (KARD equation 4).

    Args:
        target: BM25 scores of the rationale, (rationales, candidates).
        scores: The reranker's scores, same shape.
        present: Which places hold a candidate, same shape, boolean.
        tau_rationale: τ1.
        tau_question: τ2.
    """
    absent = ~present
    log_q = functional.log_softmax((target / tau_rationale).masked_fill(absent, -math.inf), dim=-1)
    log_p = functional.log_softmax((scores / tau_question).masked_fill(absent, -math.inf), dim=-1)
    terms = log_q.exp() * (log_q - log_p)
    return terms.masked_fill(absent, 0.0).sum(dim=-1).mean()


class Learner(nn.Module, ABC):
    """An encoder with the loss on top; each kind says how a batch is scored."""

    def __init__(self, encoder: nn.Module, section: RerankerSection, tau_rationale: float, tau_question: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.tau_rationale = tau_rationale
        self.tau_question = tau_question
        self.has_dropout = section.learns_passages
        make_trainable(encoder, list(self.trained_modules()), section)

    def trained_modules(self) -> Iterator[nn.Module]:
        """The parts that learn."""
        yield self.encoder

    @abstractmethod
    def scores(self, **inputs: Any) -> Tensor:
        """Scores of a batch, (rationales, candidates)."""

    def train(self, mode: bool = True) -> Learner:
        """Without dropout but in the paper's form: the target is a full distribution, and the untrained scores are the start."""
        return super().train(mode and self.has_dropout)

    def forward(self, target: Tensor, present: Tensor, **inputs: Any) -> dict[str, Tensor]:
        """Loss of a batch; see `Collator` for what is in it."""
        return {"loss": kl_loss(target, self.scores(**inputs), present, self.tau_rationale, self.tau_question)}


class QuestionSide(Learner):
    """Late interaction with the passage side frozen: question tokens against vectors that were computed once."""

    def trained_modules(self) -> Iterator[nn.Module]:
        encoder: Any = self.encoder
        yield from encoder[0].sub_modules["query"]

    def scores(self, **inputs: Any) -> Tensor:
        """See `late_interaction`; `questions` are tokenized queries."""
        encoded = self.encoder({**inputs["questions"]}, task="query")
        return late_interaction(
            encoded["token_embeddings"],
            encoded["attention_mask"],
            inputs["queries_of"],
            inputs["passages"],
            inputs["mask"],
        )


class BothSides(Learner):
    """Late interaction as in the paper, a sum, with both sides trained: the candidates are encoded in the step."""

    def scores(self, **inputs: Any) -> Tensor:
        """`questions` and `passages` are tokenized, `queries_of` and `passages_of` say whose they are, −1 for nobody's."""
        questions = self.encoder({**inputs["questions"]}, task="query")
        encoded = self.encoder({**inputs["passages"]}, task="document")
        own = inputs["passages_of"].clamp(min=0)
        mask = encoded["attention_mask"].bool()[own] & (inputs["passages_of"] >= 0)[..., None]
        passages = encoded["token_embeddings"][own]
        return late_interaction(
            questions["token_embeddings"],
            questions["attention_mask"],
            inputs["queries_of"],
            passages,
            mask,
            summed=True,
        )


class Pairs(Learner):
    """A cross-encoder."""

    def scores(self, **inputs: Any) -> Tensor:
        """`pairs` are tokenized, `pairs_of` is (rationales, candidates, queries), −1 for none."""
        flat = self.encoder({**inputs["pairs"]})["scores"].float().flatten()
        own = inputs["pairs_of"]
        return flat[own.clamp(min=0)].masked_fill(own < 0, _LOW).amax(dim=-1)


def late_interaction(
    queries: Tensor, query_mask: Tensor, queries_of: Tensor, passages: Tensor, mask: Tensor, summed: bool = False
) -> Tensor:
    """Scores (questions, candidates): mean over query tokens of the best passage token, best over a question's queries.

    Args:
        queries: Token vectors, (queries, tokens, dimension).
        query_mask: Which of these tokens are real, (queries, tokens).
        queries_of: Each question's queries, (questions, most queries), −1 where it has fewer.
        passages: Token vectors of the candidates, (questions, candidates, tokens, dimension).
        mask: Which of these tokens are real, (questions, candidates, tokens).
        summed: The sum over query tokens in place of the mean.
    """
    own = queries[queries_of.clamp(min=0)]  # (questions, queries, tokens, dimension)
    similarity = torch.einsum("qatd,qcpd->qcatp", own, passages.to(queries.dtype)).float()
    best = similarity.masked_fill(~mask[:, :, None, None, :], _LOW).amax(dim=-1)
    weights = query_mask / (1 if summed else query_mask.sum(dim=-1, keepdim=True))
    of_query = (best * weights[queries_of.clamp(min=0)][:, None]).sum(dim=-1)
    return of_query.masked_fill((queries_of < 0)[:, None, :], -math.inf).amax(dim=-1)


def learner_of(reranker: Reranker | CrossReranker, section: RerankerSection) -> tuple[type[Learner], Inputs]:
    """What learns, and what its batches hold beside target and places."""
    if isinstance(reranker, CrossReranker):
        return Pairs, lambda rows: _pair_inputs(reranker, rows)
    if section.learns_passages:
        return BothSides, lambda rows: _both_inputs(reranker, rows)
    return QuestionSide, lambda rows: _question_inputs(reranker, rows)


Inputs = Callable[[Sequence[CandidateSet]], dict[str, Any]]


@dataclass(frozen=True)
class Collator:
    """Builds a batch: ``target`` and ``present``, (rationales, candidates), and the inputs of the learner.

    Which candidates a long set contributes depends on seed, epoch and set alone, not on the order of the batches.
    """

    inputs: Inputs
    step_candidates: int | None
    order: EpochOrder

    def __call__(self, rows: list[CandidateSet]) -> dict[str, Any]:
        rows = [self.sampled(row) for row in rows]
        target = torch.zeros(len(rows), max(len(row.positions) for row in rows))
        present = torch.zeros(target.shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            target[number, : len(row.scores)] = torch.tensor(row.scores)
            present[number, : len(row.scores)] = True
        return {"target": target, "present": present, **self.inputs(rows)}

    def sampled(self, row: CandidateSet) -> CandidateSet:
        """At most `step_candidates` of a set, half of them by question, as far as there are so many of each."""
        size, wanted = len(row.positions), self.step_candidates
        if wanted is None or size <= wanted:
            return row
        chance = np.random.default_rng([self.order.seed, self.order.epoch, *row.positions])
        by_rationale = min(row.by_rationale, max(wanted - wanted // 2, wanted - (size - row.by_rationale)))
        first = chance.choice(row.by_rationale, by_rationale, replace=False)
        rest = chance.choice(np.arange(row.by_rationale, size), wanted - by_rationale, replace=False)
        kept = [*first, *rest]
        return CandidateSet(row.queries, tuple(row.positions[i] for i in kept), tuple(row.scores[i] for i in kept))


def _question_inputs(reranker: Reranker, rows: Sequence[CandidateSet]) -> dict[str, Any]:
    vectors = [reranker.vectors.get(row.positions) for row in rows]
    shape = (len(rows), max(len(row) for row in vectors), max(len(one) for row in vectors for one in row))
    passages = np.zeros((*shape, reranker.vectors.dimension), dtype=np.float16)
    mask = np.zeros(shape, dtype=bool)
    for number, row in enumerate(vectors):
        for place, one in enumerate(row):
            passages[number, place, : len(one)] = one
            mask[number, place, : len(one)] = True
    stored = {"passages": torch.from_numpy(passages), "mask": torch.from_numpy(mask)}
    return {**_queries(reranker, rows), **stored}


def _both_inputs(reranker: Reranker, rows: Sequence[CandidateSet]) -> dict[str, Any]:
    distinct = sorted({position for row in rows for position in row.positions})
    place = {position: number for number, position in enumerate(distinct)}
    passages = reranker.encoder.preprocess([reranker.vectors.texts[p] for p in distinct], task="document")
    own = _padded([[place[p] for p in row.positions] for row in rows])
    return {**_queries(reranker, rows), "passages": _tensors(passages), "passages_of": own}


def _queries(reranker: Reranker, rows: Sequence[CandidateSet]) -> dict[str, Any]:
    features = reranker.encoder.preprocess([text for row in rows for text in row.queries], task="query")
    return {"questions": _tensors(features), "queries_of": _padded(_numbered([len(row.queries) for row in rows]))}


def _pair_inputs(reranker: CrossReranker, rows: Sequence[CandidateSet]) -> dict[str, Any]:
    pairs = [(query, reranker.texts[p]) for row in rows for p in row.positions for query in row.queries]
    most = max(len(row.positions) for row in rows)
    numbers = _numbered([len(row.queries) for row in rows for _ in row.positions])
    rest = iter(numbers)
    padded = [[next(rest) if place < len(row.positions) else [] for place in range(most)] for row in rows]
    own = _padded([numbers for row in padded for numbers in row]).reshape(len(rows), most, -1)
    return {"pairs": _tensors(reranker.encoder.preprocess(pairs)), "pairs_of": own}


def _numbered(sizes: Sequence[int]) -> list[list[int]]:
    """Consecutive numbers in groups of these sizes."""
    ends = np.cumsum(sizes)
    return [list(range(end - size, end)) for end, size in zip(ends.tolist(), sizes, strict=True)]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of different length as one tensor, filled with −1."""
    padded = torch.full((len(rows), max(map(len, rows))), -1)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def _tensors(features: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in features.items() if isinstance(value, Tensor)}
