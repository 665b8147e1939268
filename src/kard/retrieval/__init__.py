"""Retrievers: `search(queries, k)` gives passage positions and scores, batch first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kard.recipe import RetrieverSection

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


def build_retriever(section: RetrieverSection, texts: Sequence[str], folder: Path) -> None:
    """Index texts with the recipe's retriever; what an earlier attempt left in `folder` is used.

    Args:
        section: Which retriever, and its settings.
        texts: Their order gives the positions that `search` returns; read a block at a time.
        folder: Where the index goes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if section.kind in ("bm25", "hybrid"):
        from kard.retrieval.bm25 import Bm25

        Bm25.build(texts, section, folder)
    if section.kind in ("dense", "hybrid"):
        from kard.retrieval.dense import Dense

        Dense.build(texts, section, folder)
    if section.kind == "milvus":
        from kard.retrieval.milvus import Milvus

        Milvus.build(texts, section, folder)


def load_retriever(section: RetrieverSection, folder: Path) -> Retriever:
    """Open an index that `build_retriever` wrote.

    Raises:
        UserError: It was built with other settings than the recipe's.
    """
    if section.kind == "bm25":
        from kard.retrieval.bm25 import Bm25

        return Bm25.load(folder, section)
    if section.kind == "dense":
        from kard.retrieval.dense import Dense

        return Dense.load(folder, section)
    if section.kind == "hybrid":
        from kard.retrieval.hybrid import Hybrid

        return Hybrid.load(folder, section)
    from kard.retrieval.milvus import Milvus

    return Milvus.load(folder, section)
