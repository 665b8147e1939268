"""Indexes: built from texts, and opened again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kard.recipe import RetrieverSection
from kard.retrieval.retriever import Retriever


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
