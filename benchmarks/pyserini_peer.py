"""Run by the Python that has pyserini: its Java classes called as pyserini calls them, so that torch is not needed.

Usage: pyserini_peer.py name | index CORPUS INDEX THREADS | search INDEX QUERIES OUTPUT K THREADS
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import jnius_config

package = Path(importlib.util.find_spec("pyserini").submodule_search_locations[0])
jnius_config.add_classpath(str(next(package.glob("resources/jars/anserini-*-fatjar.jar"))))

from jnius import autoclass  # noqa: E402 - the class path comes first


def name() -> None:
    version = autoclass("org.apache.lucene.util.Version").LATEST.toString()
    print(json.dumps({"name": f"Lucene {version}, by pyserini"}))


def index(corpus: str, folder: str, threads: str) -> None:
    arguments = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-quiet"]
    arguments += ["-input", corpus, "-index", folder, "-threads", threads]
    start = time.perf_counter()
    autoclass("io.anserini.index.IndexCollection").main(arguments)
    print(json.dumps({"seconds": time.perf_counter() - start}))


def search(folder: str, queries: str, output: str, k: str, threads: str) -> None:
    texts = json.loads(Path(queries).read_text(encoding="utf-8"))
    searcher = autoclass("io.anserini.search.SimpleSearcher")(folder)
    searcher.set_bm25(0.9, 0.4)
    strings, names = autoclass("java.util.ArrayList")(), autoclass("java.util.ArrayList")()
    for number, text in enumerate(texts):
        strings.add(text)
        names.add(str(number))
    warm = min(20, len(texts))
    searcher.batch_search(strings.subList(0, warm), names.subList(0, warm), int(k), int(threads))  # warms Java up
    start = time.perf_counter()
    results = searcher.batch_search(strings, names, int(k), int(threads))
    seconds = time.perf_counter() - start
    found = {entry.getKey(): [hit.docid for hit in entry.getValue()] for entry in results.entrySet().toArray()}
    Path(output).write_text(json.dumps([found.get(str(n), []) for n in range(len(texts))]), encoding="utf-8")
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    {"name": name, "index": index, "search": search}[sys.argv[1]](*sys.argv[2:])
