"""index: the retriever's, over the passages' titles and texts."""

from __future__ import annotations

from pathlib import Path

from kard.machine.processes import rank
from kard.retrieval.dense import build_dense
from kard.retrieval.index import build_retriever
from kard.run import Run


def make_index(run: Run, folder: Path) -> None:
    """Index the knowledge base; vectors are computed by all processes."""
    section, texts = run.recipe.retriever, run.passages().texts
    if rank() > 0:
        build_dense(texts, section, folder)
    else:
        build_retriever(section, texts, folder)
