"""index: the retriever's, over the passages' titles and texts."""

from __future__ import annotations

from pathlib import Path

from kard.retrieval.index import build_retriever
from kard.run import Run


def make_index(run: Run, folder: Path) -> None:
    """Index the knowledge base."""
    build_retriever(run.recipe.retriever, run.passages().texts, folder)
