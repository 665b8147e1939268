"""Building a BM25 index beside pyserini's (or bm25s's): seconds, peak memory, size on disk, and queries a second from it.

Usage: python benchmarks/index.py [--quick] [--passages N] [--data FOLDER] [--work FOLDER] [--alone]

Both read the same JSONL file. A build that was stopped goes on with the blocks that are whole; its seconds are then those of the
rest. `--alone` leaves the peer out.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import corpus

from kard.recipe.sections import RetrieverSection


def main() -> None:
    arguments = parsed()
    if arguments.part:
        print(json.dumps({"build": build, "open": opened, "peer": peer}[arguments.part](arguments)))
        return
    passages, _ = corpus.prepared(arguments)
    folder = arguments.work / str(arguments.passages)
    target = folder / "kard-index"
    if target.exists() and (target / "analysis.json").exists():
        shutil.rmtree(target)
    built = part("build", arguments)
    searched = part("open", arguments)
    theirs, name = ({}, "none") if arguments.alone else (part("peer", arguments), corpus.peer_name())
    seconds = theirs.get("seconds")
    settings = {"passages": len(passages), "threads": os.cpu_count(), **built, **searched, "peer": theirs}
    ratio = seconds / built["seconds"] if seconds else None
    corpus.show("index", built["seconds"], seconds, name, "seconds", ratio, 1, settings)


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 passages")
    parser.add_argument("--passages", type=int, default=500_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--alone", action="store_true", help="measure no peer")
    parser.add_argument("--part", choices=["build", "open", "peer"], help="one process of the benchmark")
    arguments = parser.parse_args()
    arguments.passages = 20_000 if arguments.quick else arguments.passages
    return arguments


def part(name: str, arguments: Namespace) -> dict[str, float]:
    """A part in a process of its own, so that its peak memory is its own."""
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--passages",
        str(arguments.passages),
        "--work",
        str(arguments.work),
    ]
    if arguments.data:
        command += ["--data", str(arguments.data)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, float] = json.loads(output)
    return found


def build(arguments: Namespace) -> dict[str, float]:
    from kard.retrieval.index import build_retriever

    folder = arguments.work / str(arguments.passages)
    passages = corpus.Corpus(folder / "corpus" / "passages.jsonl")
    start = time.perf_counter()
    build_retriever(RetrieverSection(language="english"), passages, folder / "kard-index")
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 1),
        "build_gb": peak_gigabytes(),
        "disk_gb": disk_gigabytes(folder / "kard-index"),
    }


def opened(arguments: Namespace) -> dict[str, float]:
    from kard.retrieval.index import load_retriever

    folder = arguments.work / str(arguments.passages)
    start = time.perf_counter()
    index = load_retriever(RetrieverSection(language="english"), folder / "kard-index")
    seconds = time.perf_counter() - start
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    index.search(queries[:20], 100)
    start = time.perf_counter()
    index.search(queries, 100)
    rate = len(queries) / (time.perf_counter() - start)
    return {"open_seconds": round(seconds, 3), "queries_a_second": round(rate, 1), "search_gb": peak_gigabytes()}


def peer(arguments: Namespace) -> dict[str, float]:
    """pyserini's seconds; of bm25s also memory, disk and search."""
    folder = arguments.work / str(arguments.passages)
    if "PYSERINI_PYTHON" in os.environ:
        return {"seconds": corpus.pyserini_index(folder)}
    start = time.perf_counter()
    index = corpus.bm25s_index(corpus.Corpus(folder / "corpus" / "passages.jsonl"))
    seconds = time.perf_counter() - start
    index.save(str(folder / "bm25s-index"))
    queries = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    rate, _ = corpus.bm25s_rate(index, queries, 100)
    found = {"seconds": round(seconds, 1), "build_gb": peak_gigabytes(), "queries_a_second": round(rate, 1)}
    return found | {"disk_gb": disk_gigabytes(folder / "bm25s-index")}


def disk_gigabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.iterdir()) / 1e9, 3)


def peak_gigabytes() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)


if __name__ == "__main__":
    main()
