"""BM25 search beside pyserini's (or bm25s's): queries a second, and how far the first ten passages agree.

Usage: python benchmarks/bm25.py [--quick] [--passages N] [--data FOLDER] [--work FOLDER]

The peer is pyserini 0.22 where PYSERINI_PYTHON names a Python that has it, else bm25s with its numba backend. Corpus and indexes
stay in the work folder, so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import corpus

K = 100
LUCENE = {"analyzer": "lucene"}


def main() -> None:
    arguments = parsed()
    passages, queries = corpus.prepared(arguments)
    folder = arguments.work / f"{arguments.passages}"
    ours, positions = search_ours(folder / "kard", passages, queries)
    peer, others, name = corpus.peer(folder, passages, queries, K)
    agreement = sum(len({*one[:10]} & {*other[:10]}) for one, other in zip(positions, others, strict=True))
    settings = {
        "passages": len(passages),
        "queries": len(queries),
        "k": K,
        "threads": os.cpu_count(),
        "top10_agreement": round(agreement / sum(len(other[:10]) for other in others), 4),
        "data": "real" if arguments.data else "demo",
    }
    corpus.show("bm25", ours, peer, name, "queries a second", ours / peer, 20, settings)


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 50 queries")
    parser.add_argument("--passages", type=int, default=500_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl and questions.train.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    arguments.passages = 20_000 if arguments.quick else arguments.passages
    return arguments


def search_ours(folder: Path, passages: Any, queries: list[str]) -> tuple[float, list[list[int]]]:
    from kard.recipe.sections import RetrieverSection
    from kard.retrieval.index import build_retriever, load_retriever

    section = RetrieverSection.model_validate(LUCENE)
    build_retriever(section, passages, folder)
    index = load_retriever(section, folder)
    index.search(queries[:20], K)  # compiles, and warms the files up
    start = time.perf_counter()
    hits = index.search(queries, K)
    return len(queries) / (time.perf_counter() - start), [hit.positions.tolist() for hit in hits]


if __name__ == "__main__":
    main()
