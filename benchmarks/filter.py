"""Filtered search beside unfiltered: milliseconds a query where a filter leaves half of the passages, down to three of them.

Usage: python benchmarks/filter.py [--quick] [--passages N] [--data FOLDER] [--work FOLDER]

`ours` is the slowest of the filtered searches, `peer` the same search without a filter: a ratio of 1.5 means that a filter
costs half as much again. The time of a mask (a condition on two keys, all documents) stands in the settings.
"""

from __future__ import annotations

import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np

from kard.data.document_table import DocumentRow, documents_written
from kard.data.filters import Access, Restriction
from kard.recipe.sections import RetrieverSection
from kard.retrieval.index import build_retriever, load_retriever
from kard.retrieval.retriever import Retriever

K = 100
SHARES = {"half": 2, "a tenth": 10, "a hundredth": 100, "a thousandth": 1_000}
GOAL = 1.5


def main() -> None:
    arguments = parsed()
    passages, queries = corpus.prepared(arguments)
    folder = arguments.work / str(arguments.passages)
    section = RetrieverSection(language="english")
    build_retriever(section, passages, folder / "kard-filter")
    index = load_retriever(section, folder / "kard-filter")
    short = [" ".join(query.split()[:6]) for query in queries]
    masks, mask_ms = filtered(folder / "filter-documents", len(passages))
    rows = [row for name, asked in (("long", queries), ("short", short)) for row in compared(index, name, asked, masks)]
    for row in rows:
        print(json.dumps(row), flush=True)
    worst = max(rows, key=lambda row: row["ratio"])
    settings: dict[str, Any] = {
        "passages": len(passages),
        "queries": len(queries),
        "k": K,
        "threads": os.cpu_count(),
        "worst": worst,
    }
    settings |= {"mask_ms": mask_ms, "ratios": {f"{row['queries']}, {row['left']}": row["ratio"] for row in rows}}
    corpus.show(
        "filter", worst["ms"], worst["unfiltered_ms"], "unfiltered", "ms a query", worst["ratio"], GOAL, settings
    )


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 passages, 50 queries")
    parser.add_argument("--passages", type=int, default=500_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    arguments.passages = 20_000 if arguments.quick else arguments.passages
    return arguments


def filtered(folder: Path, count: int) -> tuple[dict[str, np.ndarray], float]:
    """Masks of documents of one passage each, spread over all; and the milliseconds that one takes once metadata is read."""
    folder.mkdir(parents=True, exist_ok=True)
    with documents_written(folder) as add:
        for number in np.random.default_rng(0).permutation(count).tolist():
            add(DocumentRow(str(number), "", "", 1, {"number": number, "lang": "de" if number % 3 else "en"}))
    access = Access(folder)
    access.allowed(Restriction.of({"number": 0, "lang": "de"}))  # reads metadata
    conditions = {name: {"number": {"$lt": count // share}} for name, share in SHARES.items()} | {
        "3": {"number": {"$lt": 3}}
    }
    masks = {name: access.allowed(Restriction.of(condition)) for name, condition in conditions.items()}
    start = time.perf_counter()
    for number in range(20):
        access.allowed(Restriction.of({"number": {"$gt": number}, "lang": "de"}))
    return {name: mask for name, mask in masks.items() if mask is not None}, round(
        (time.perf_counter() - start) * 50, 2
    )


def compared(index: Retriever, name: str, queries: list[str], masks: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    unfiltered = seconds(index, queries, None)
    for left, mask in masks.items():
        took = seconds(index, queries, mask)
        each = 1000 / len(queries)
        times = {"ms": round(took * each, 3), "unfiltered_ms": round(unfiltered * each, 3)}
        yield {"queries": name, "left": left, **times, "ratio": round(took / unfiltered, 3)}


def seconds(index: Retriever, queries: list[str], allowed: np.ndarray | None) -> float:
    """The best of three tries."""
    index.search(queries[:20], K, allowed)
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries, K, allowed)
        tries.append(time.perf_counter() - start)
    return min(tries)


if __name__ == "__main__":
    main()
