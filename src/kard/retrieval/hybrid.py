"""BM25 and dense retrieval put together by reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kard.recipe.sections import RetrieverSection
from kard.retrieval.bm25 import Bm25
from kard.retrieval.dense import Dense
from kard.retrieval.retriever import Hits

# How deep each ranking is looked at; a passage that is in neither has no score.
DEPTH = 1000
# A passage at rank r (from 1) of a ranking gets 1 / (FUSION + r), as in the paper.
FUSION = 60


class Hybrid:
    """BM25 and vectors over the same passages; both rankings count alike.

    Args:
        folder: Holds both indexes.
        section: The recipe's.
    """

    def __init__(self, folder: Path, section: RetrieverSection) -> None:
        bm25 = Bm25(folder, section)
        self.analysis = bm25.analysis
        self.retrievers = (bm25, Dense(folder, section))

    def search(self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None) -> list[Hits]:
        """The `k` passages with the highest sums of reciprocal ranks (among the `allowed`), equal sums by position."""
        fused = self._fused(queries, max(k, DEPTH), allowed)
        return [Hits(found.positions[:k], found.scores[:k]) for found in fused]

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Sums of reciprocal ranks of given passages; 0 for one that is in no ranking."""
        fused = self._fused(queries, DEPTH)
        return [hits.scores_of(own) for hits, own in zip(fused, positions, strict=True)]

    def _fused(self, queries: Sequence[str], depth: int, allowed: np.ndarray | None = None) -> list[Hits]:
        rankings = [retriever.search(queries, depth, allowed) for retriever in self.retrievers]
        return [fuse([hits.positions for hits in row]) for row in zip(*rankings, strict=True)]


def fuse(rankings: Sequence[np.ndarray]) -> Hits:
    """One ranking of several: sums of 1 / (FUSION + rank), equal sums by position."""
    every, places = np.unique(np.concatenate(rankings), return_inverse=True)
    ranks = np.concatenate([np.arange(1, len(ranking) + 1) for ranking in rankings])
    scores = np.bincount(places, 1 / (FUSION + ranks), minlength=len(every))
    return Hits.ordered(every, scores.astype(np.float32))
