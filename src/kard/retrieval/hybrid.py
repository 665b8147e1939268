"""BM25 and dense retrieval put together by reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kard.recipe import RetrieverSection
from kard.retrieval.analysis import Analysis
from kard.retrieval.bm25 import Bm25
from kard.retrieval.dense import Dense
from kard.retrieval.retriever import Hits, Retriever

# How deep each ranking is looked at; a passage that is in neither has no score.
DEPTH = 1000


@dataclass(frozen=True)
class Hybrid:
    """Several retrievers over the same passages.

    Attributes:
        retrievers: Whose rankings count, all alike.
        fusion: A passage at rank r (from 1) of a ranking gets 1 / (fusion + r).
    """

    retrievers: tuple[Retriever, ...]
    fusion: int

    @classmethod
    def load(cls, folder: Path, section: RetrieverSection) -> Hybrid:
        """Open both indexes of a folder."""
        return cls((Bm25.load(folder, section), Dense.load(folder, section)), section.fusion)

    @property
    def analysis(self) -> Analysis:
        """That of the first retriever."""
        return self.retrievers[0].analysis

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` passages with the highest sums of reciprocal ranks, equal sums by position."""
        fused = self._fused(queries, max(k, DEPTH))
        return [Hits(found.positions[:k], found.scores[:k]) for found in fused]

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Sums of reciprocal ranks of given passages; 0 for one that is in no ranking."""
        found = []
        for hits, own in zip(self._fused(queries, DEPTH), positions, strict=True):
            known = dict(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True))
            found.append(np.array([known.get(int(position), 0.0) for position in own], dtype=np.float32))
        return found

    def _fused(self, queries: Sequence[str], depth: int) -> list[Hits]:
        rankings = [retriever.search(queries, depth) for retriever in self.retrievers]
        return [fuse([hits.positions for hits in row], self.fusion) for row in zip(*rankings, strict=True)]


def fuse(rankings: Sequence[np.ndarray], fusion: int) -> Hits:
    """One ranking of several: sums of 1 / (fusion + rank), equal sums by position."""
    every, places = np.unique(np.concatenate(rankings), return_inverse=True)
    scores = np.zeros(len(every))
    ranks = np.concatenate([np.arange(1, len(ranking) + 1) for ranking in rankings])
    np.add.at(scores, places, 1 / (fusion + ranks))
    order = np.lexsort((every, -scores))
    return Hits(every[order], scores[order].astype(np.float32))
