"""Texts for the retrieval benchmarks: passages and queries of about 100 words, put together from real sentences by a seed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kard.data.cutting import sentences

WORDS = 100
Found = tuple[float, list[list[int]]]


def real_sentences(folder: Path | None) -> list[str]:
    """Sentences of every passages.jsonl below a folder, or of the Wikipedia summaries in the extra ``demo``."""
    if folder is None:
        from kard.data.readers.wikivital import read_articles

        texts = [article.extract for article in read_articles()]
    else:
        paths = sorted(folder.rglob("passages.jsonl"))
        texts = [json.loads(line)["text"] for path in paths for line in path.open(encoding="utf-8")]
    return [sentence for text in texts for sentence in sentences(text) if len(sentence.split()) > 3]


def texts(pool: list[str], count: int, seed: int, most: int = WORDS) -> Iterator[str]:
    """Texts of about 100 words."""
    chance = random.Random(seed)
    for _ in range(count):
        chosen: list[str] = []
        words = 0
        while words < most:
            chosen.append(pool[int(chance.random() * len(pool))])
            words += chosen[-1].count(" ") + 1
        yield " ".join(chosen)


def write_corpus(path: Path, pool: list[str], count: int, seed: int) -> None:
    """Passages as ``id, contents`` (which Anserini's JsonCollection reads), written whole or not at all; kept if there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for number, text in enumerate(texts(pool, count, seed)):
            file.write(json.dumps({"id": str(number), "contents": text}, ensure_ascii=False) + "\n")
    temporary.rename(path)


class Corpus(Sequence[str]):
    """Texts of a corpus file, read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        starts = path.parent.with_name("starts.npy")
        if not starts.exists():
            lengths = [len(line) for line in path.open("rb")]
            np.save(starts, np.concatenate(([0], np.cumsum(lengths))))
        self.starts = np.load(starts, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self[index : index + 1][0]
        first, last, _ = index.indices(len(self))
        with open(self.path, "rb") as file:
            file.seek(int(self.starts[first]))
            block = file.read(int(self.starts[last] - self.starts[first]))
        return [json.loads(line)["contents"] for line in block.splitlines()]


def prepared(arguments: Namespace) -> tuple[Corpus, list[str]]:
    """The corpus, and its queries: recorded rationales of about 100 words, or texts from the same sentences by another seed."""
    folder = arguments.work / str(arguments.passages)
    path = folder / "corpus" / "passages.jsonl"
    queries = folder / "queries.json"
    if not path.exists() or not queries.exists():
        pool = real_sentences(arguments.data)
        write_corpus(path, pool, arguments.passages, seed=0)
        rationales = _rationales(arguments.data) if arguments.data else []
        count = 50 if arguments.quick else 500
        chosen = random.Random(1).sample(rationales, count) if len(rationales) >= count else list(texts(pool, count, 1))
        queries.write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
    return Corpus(path), json.loads(queries.read_text(encoding="utf-8"))


def _rationales(folder: Path) -> list[str]:
    paths = sorted(folder.rglob("questions.train.jsonl"))
    rows = (json.loads(line) for path in paths for line in path.open(encoding="utf-8"))
    return [text for row in rows for text in row.get("rationales", []) if 90 <= len(text.split()) <= 130]


def pyserini(*arguments: str) -> dict[str, Any]:
    """A call of the peer in its own Python."""
    command = [os.environ["PYSERINI_PYTHON"], str(Path(__file__).with_name("pyserini_peer.py")), *arguments]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().splitlines()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def peer_name() -> str:
    return str(pyserini("name")["name"]) if "PYSERINI_PYTHON" in os.environ else "bm25s (numba)"


def pyserini_index(folder: Path) -> float:
    """Seconds that pyserini takes to index the corpus from its file."""
    shutil.rmtree(folder / "lucene", ignore_errors=True)
    return float(pyserini("index", str(folder / "corpus"), str(folder / "lucene"), str(os.cpu_count()))["seconds"])


def bm25s_index(passages: Corpus) -> Any:
    import bm25s
    import Stemmer

    tokens = bm25s.tokenize(passages[:], stopwords="en", stemmer=Stemmer.Stemmer("english"), show_progress=False)
    index = bm25s.BM25(k1=0.9, b=0.4, backend="numba")
    index.index(tokens, show_progress=False)
    return index


def peer(folder: Path, passages: Corpus, queries: list[str], k: int) -> tuple[Callable[[], Found], str]:
    """What measures the peer's search once: its queries a second and the positions that it finds; and its name."""
    if "PYSERINI_PYTHON" not in os.environ:
        index = bm25s_index(passages)
        return lambda: bm25s_rate(index, queries, k), peer_name()
    if not any((folder / "lucene").glob("segments_*")):
        pyserini_index(folder)
    output = folder / "lucene.json"
    places = str(folder / "lucene"), str(folder / "queries.json"), str(output)

    def search() -> Found:
        seconds = pyserini("search", *places, str(k), str(os.cpu_count()))["seconds"]
        positions = [[int(name) for name in row] for row in json.loads(output.read_text(encoding="utf-8"))]
        return len(queries) / seconds, positions

    return search, peer_name()


def bm25s_rate(index: Any, queries: list[str], k: int) -> Found:
    """Queries a second of bm25s, and the positions that it finds."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def search(some: list[str]) -> Any:
        tokens = bm25s.tokenize(some, stopwords="en", stemmer=stemmer, show_progress=False)
        return index.retrieve(tokens, k=k, n_threads=os.cpu_count(), show_progress=False)

    search(queries[:20])
    start = time.perf_counter()
    found = search(queries)
    return len(queries) / (time.perf_counter() - start), found.documents.tolist()


def show(
    benchmark: str,
    ours: float,
    peer: float | None,
    name: str,
    unit: str,
    ratio: float | None,
    goal: float,
    settings: Any,
) -> None:
    """Print the one line that a benchmark ends with."""
    rounded = {"ours": round(ours, 2), "peer": peer and round(peer, 2), "ratio": ratio and round(ratio, 2)}
    row = {"benchmark": benchmark, **rounded, "peer_name": name, "unit": unit, "goal": goal, "settings": settings}
    print(json.dumps(row))
