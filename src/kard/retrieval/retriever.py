"""What a run asks of a retriever, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from kard.retrieval.analysis import Analysis


@dataclass(frozen=True)
class Hits:
    """Result of one query, best first: positions of passages in the index, and their scores."""

    positions: np.ndarray
    scores: np.ndarray

    @classmethod
    def ordered(cls, positions: np.ndarray, scores: np.ndarray) -> Hits:
        """By falling score, equal scores by position."""
        order = np.lexsort((positions, -scores))
        return cls(positions[order], scores[order])

    @classmethod
    def none(cls) -> Hits:
        """No passage."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))

    def scores_of(self, positions: Sequence[int]) -> np.ndarray:
        """Scores of given passages, float32; 0 for one that was not found."""
        known = dict(zip(self.positions.tolist(), self.scores.tolist(), strict=True))
        return np.array([known.get(int(position), 0.0) for position in positions], dtype=np.float32)


@dataclass(frozen=True)
class Earlier:
    """An index whose passages a new one takes over.

    Attributes:
        folder: Of the earlier index.
        kept: Rising positions in it of the passages that are the first ones of the new index.
        versions: The index folders of all versions, which a database may hold together.
    """

    folder: Path
    kept: np.ndarray
    versions: Sequence[Path] = ()


class Retriever(Protocol):
    """What a run asks of a retriever; its analysis says which words count as the same."""

    @property
    def analysis(self) -> Analysis: ...

    def search(self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None) -> list[Hits]:
        """The `k` best passages for each query, equal scores by position.

        Args:
            queries: Any texts.
            k: How many at most.
            allowed: Whether each passage may be found, bool, shape (passages,); None: all. The best of those are found exactly,
                with the scores that they have among all passages.
        """

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of given passages for each query."""
