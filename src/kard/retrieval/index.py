"""Indexes: built from texts, and opened again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kard.recipe.sections import RetrieverSection
from kard.retrieval.retriever import Earlier, Retriever


def build_retriever(
    section: RetrieverSection, texts: Sequence[str], folder: Path, earlier: Earlier | None = None
) -> None:
    """Index texts with the recipe's retriever; what an earlier attempt left in `folder` is used.

    Args:
        section: Which retriever, and its settings.
        texts: Their order gives the positions that `search` returns; read a block at a time.
        folder: Where the index goes.
        earlier: The index of another version of the documents, whose work on unchanged passages is not done again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if section.milvus is not None:
        from kard.retrieval.milvus import build_milvus

        return build_milvus(texts, section, folder, earlier)
    if section.kind != "dense":
        from kard.retrieval.building import build_bm25

        build_bm25(texts, section, folder, earlier)
    if section.kind != "bm25":
        from kard.retrieval.dense import build_dense

        build_dense(texts, section, folder, earlier)
    return None


def load_retriever(section: RetrieverSection, folder: Path) -> Retriever:
    """Open an index that `build_retriever` wrote.

    Raises:
        UserError: It was built with other settings than the recipe's.
    """
    if section.milvus is not None:
        from kard.retrieval.milvus import Milvus

        return Milvus(folder, section)
    if section.kind == "hybrid":
        from kard.retrieval.hybrid import Hybrid

        return Hybrid(folder, section)
    if section.kind == "dense":
        from kard.retrieval.dense import Dense

        return Dense(folder, section)
    from kard.retrieval.bm25 import Bm25

    return Bm25(folder, section)
