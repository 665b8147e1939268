"""What a run asks of a retriever, and what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from kard.retrieval.analysis import Analysis


@dataclass(frozen=True)
class Hits:
    """Result of one query, best first: positions of passages in the index, and their scores."""

    positions: np.ndarray
    scores: np.ndarray


class Retriever(Protocol):
    """What a run asks of a retriever; its analysis says which words count as the same."""

    @property
    def analysis(self) -> Analysis: ...

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` best passages for each query, equal scores by position."""

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of given passages for each query."""
