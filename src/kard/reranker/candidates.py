"""What a reranker scores and learns from."""

from __future__ import annotations

from dataclasses import dataclass

Queries = tuple[str, ...]
"""A question as the reranker reads it: one text, or one for each choice."""


@dataclass(frozen=True)
class CandidateSet:
    """One rationale's training example.

    Attributes:
        queries: The question as the reranker reads it.
        positions: Candidates D̃ without duplicates, as positions in the knowledge base.
        scores: The rationale's BM25 score ρ(d|r) of each candidate.
        by_rationale: How many of them, the first ones, the rationale has found; the question has found the others.
    """

    queries: Queries
    positions: tuple[int, ...]
    scores: tuple[float, ...]
    by_rationale: int = 0
