"""BM25 search beside Lucene's (or bm25s's): queries a second, the median of three rounds in turn, and how far the first ten
passages agree.

Usage: python benchmarks/bm25.py [--quick] [--passages N] [--data FOLDER] [--work FOLDER]

The peer is Lucene where PYSERINI_PYTHON names a Python that has pyserini (2.x: Lucene 10), else bm25s with its numba backend;
ours cuts words as the peer does. Corpus and indexes stay in the work folder, so that a benchmark that was stopped goes on.
"""

from __future__ import annotations

import os
import statistics
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import corpus

K = 100
ROUNDS = 3


def main() -> None:
    arguments = parsed()
    passages, queries = corpus.prepared(arguments)
    folder = arguments.work / f"{arguments.passages}"
    ours = opened(folder, passages)
    theirs, name = corpus.peer(folder, passages, queries, K)
    rounds = [(search(ours, queries), theirs()) for _ in range(ROUNDS)]
    (_, positions), (_, others) = rounds[0]
    pairs = [(first, second) for (first, _), (second, _) in rounds]
    fast, slow, ratio = (statistics.median(column) for column in zip(*((a, b, a / b) for a, b in pairs), strict=True))
    agreement = sum(len({*one[:10]} & {*other[:10]}) for one, other in zip(positions, others, strict=True))
    settings = {
        "passages": len(passages),
        "queries": len(queries),
        "k": K,
        "threads": os.cpu_count(),
        "top10_agreement": round(agreement / sum(len(other[:10]) for other in others), 4),
        "data": "real" if arguments.data else "demo",
        "rounds": [[round(rate, 1) for rate in pair] for pair in pairs],
    }
    corpus.show("bm25", fast, slow, name, "queries a second", ratio, 1, settings)


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 50 queries")
    parser.add_argument("--passages", type=int, default=500_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl and questions.train.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    arguments.passages = 20_000 if arguments.quick else arguments.passages
    return arguments


def opened(folder: Path, passages: Any) -> Any:
    """Our index of the passages; built if it is not there."""
    from kard.recipe.sections import RetrieverSection
    from kard.retrieval.index import build_retriever, load_retriever

    analyzer = "lucene" if "PYSERINI_PYTHON" in os.environ else "standard"
    section, place = RetrieverSection.model_validate({"analyzer": analyzer, "language": "english"}), folder / analyzer
    build_retriever(section, passages, place)
    return load_retriever(section, place)


def search(index: Any, queries: list[str]) -> corpus.Found:
    """Queries a second, and the positions that are found."""
    index.search(queries[:20], K)  # compiles, and warms the files up
    start = time.perf_counter()
    hits = index.search(queries, K)
    return len(queries) / (time.perf_counter() - start), [hit.positions.tolist() for hit in hits]


if __name__ == "__main__":
    main()
