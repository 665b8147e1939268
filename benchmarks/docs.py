"""Adding and removing passages of a large index: seconds and memory, beside building anew, tantivy and Milvus Lite.

Usage: python benchmarks/docs.py [--quick] [--passages N] [--work FOLDER]

`kard docs add` and `remove` of 1,000 documents of one passage each, on a run of N of them, as a user's command does it: reading,
looking for duplicates, writing passages and index, switching. tantivy and Milvus Lite add and delete the same and commit (Milvus:
flush). The last check: the index is the same as a fresh one, to the last bit.
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
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import corpus

from kard.artifacts.versions import current_version
from kard.data.passage import read_passages
from kard.documents import files_to_read, put_documents, remove_documents
from kard.pipeline import index_recipe
from kard.recipe.file import load_recipe
from kard.retrieval.index import build_retriever

CHANGED = 1_000


def main() -> None:
    arguments = parsed()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    corpus.prepared(arguments)
    folder = arguments.work / str(arguments.passages)
    write_sources(folder)
    shutil.rmtree(folder / "run", ignore_errors=True)
    found = {name: part(name, arguments) for name in PARTS}
    ours = max(found["add"]["seconds"], found["remove"]["seconds"])
    anew = found["build"]["seconds"]
    print(f"add {found['add']['seconds']} s, remove {found['remove']['seconds']} s, anew {anew} s", flush=True)
    settings = {"passages": arguments.passages, "changed": CHANGED, "threads": os.cpu_count(), "goal_gb": 1.2, **found}
    last = {"benchmark": "docs", "ours": ours, "peer": anew, "peer_name": "building anew", "unit": "seconds"}
    print(json.dumps({**last, "ratio": round(anew / ours, 2), "goal": "<= 60 s, <= 1.2 GB", "settings": settings}))


def parsed() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 passages")
    parser.add_argument("--passages", type=int, default=500_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl and questions.train.jsonl in it or below")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--part", help="for the benchmark itself: what to do in this process")
    arguments = parser.parse_args()
    arguments.passages = 20_000 if arguments.quick else arguments.passages
    return arguments


def write_sources(folder: Path) -> None:
    """The corpus as documents of a recipe, and others to add."""
    passages = corpus.Corpus(folder / "corpus" / "passages.jsonl")
    if not (folder / "passages.jsonl").exists():
        with open(folder / "passages.jsonl", "w", encoding="utf-8") as file:
            for number in range(len(passages)):
                file.write(json.dumps({"id": f"d{number}", "text": passages[number]}) + "\n")
    with open(folder / "new.jsonl", "w", encoding="utf-8") as file:
        for number, text in enumerate(corpus.texts(corpus.real_sentences(None), CHANGED, seed=7)):
            file.write(json.dumps({"id": f"n{number}", "text": text}) + "\n")
    recipe = "knowledge: {kind: jsonl, path: passages.jsonl, passage_words: 200}\nretriever: {language: english}\noutput: run\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def part(name: str, arguments: Namespace) -> dict[str, Any]:
    """A part in a process of its own, so that its memory is its own."""
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
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    found: dict[str, Any] = json.loads(output)
    return found


def timed(start: float) -> dict[str, float]:
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": round(time.perf_counter() - start, 1), "gb": round(gigabytes, 2)}


def build(arguments: Namespace) -> dict[str, Any]:
    folder = arguments.work / str(arguments.passages)
    start = time.perf_counter()
    index_recipe(load_recipe(str(folder / "recipe.yaml"), without_questions=True), folder / "run")
    return timed(start)


def add(arguments: Namespace) -> dict[str, Any]:
    folder = arguments.work / str(arguments.passages)
    start = time.perf_counter()
    change = put_documents(folder / "run", files_to_read([folder / "new.jsonl"]))
    return {**timed(start), "passages": change.passages}


def remove(arguments: Namespace) -> dict[str, Any]:
    folder = arguments.work / str(arguments.passages)
    start = time.perf_counter()
    change = remove_documents(folder / "run", [f"d{17 * number}" for number in range(CHANGED)])
    return {**timed(start), "passages": change.passages, "same_as_fresh": is_fresh(folder)}


def is_fresh(folder: Path) -> bool:
    run, fresh = folder / "run", folder / "fresh"
    version = run / "documents" / str(current_version(run))
    shutil.rmtree(fresh, ignore_errors=True)
    recipe = load_recipe(str(folder / "recipe.yaml"), without_questions=True)
    build_retriever(recipe.retriever, read_passages(version / "knowledge" / "passages.jsonl").texts, fresh)
    return all((version / "index" / path.name).read_bytes() == path.read_bytes() for path in fresh.iterdir())


def tantivy(arguments: Namespace) -> dict[str, Any]:
    """The peer: built, then 1,000 added and 1,000 deleted, each with its commit."""
    if find_spec("tantivy") is None:
        return {"installed": False}
    peer: Any = import_module("tantivy")
    folder = arguments.work / str(arguments.passages)
    target = folder / "tantivy"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    builder = peer.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("text", tokenizer_name="en_stem")
    index = peer.Index(builder.build(), path=str(target))
    writer = index.writer(heap_size=500_000_000)
    times = {}
    for name, file in (("build", "passages.jsonl"), ("add", "new.jsonl")):
        start = time.perf_counter()
        for row in rows(folder / file):
            writer.add_document(peer.Document(**row))
        writer.commit()
        times[name] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    for number in range(CHANGED):
        writer.delete_documents("id", f"d{17 * number}")
    writer.commit()
    return {**times, "remove": round(time.perf_counter() - start, 2), "version": version("tantivy")}


def milvus(arguments: Namespace) -> dict[str, Any]:
    """The peer: a file of Milvus Lite with its BM25 function; each change is flushed."""
    if find_spec("milvus_lite") is None:
        return {"installed": False}
    peer: Any = import_module("pymilvus")
    folder = arguments.work / str(arguments.passages)
    shutil.rmtree(folder / "milvus", ignore_errors=True)
    (folder / "milvus").mkdir()
    client = peer.MilvusClient(str(folder / "milvus" / "passages.db"))
    schema = client.create_schema()
    schema.add_field("id", peer.DataType.VARCHAR, is_primary=True, max_length=16)
    # Analyzer "standard", without stems: Milvus Lite has no stemmer.
    schema.add_field("text", peer.DataType.VARCHAR, max_length=65_535, enable_analyzer=True)
    schema.add_field("words", peer.DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(peer.Function("bm25", peer.FunctionType.BM25, ["text"], ["words"]))
    index = client.prepare_index_params()
    index.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection("passages", schema=schema, index_params=index)
    times = {}
    for name, file in (("build", "passages.jsonl"), ("add", "new.jsonl")):
        start = time.perf_counter()
        left = rows(folder / file)
        while block := list(islice(left, CHANGED)):
            client.insert("passages", block)
        client.flush("passages")
        times[name] = round(time.perf_counter() - start, 2)
    start = time.perf_counter()
    client.delete("passages", ids=[f"d{17 * number}" for number in range(CHANGED)])
    client.flush("passages")
    return {**times, "remove": round(time.perf_counter() - start, 2), "version": version("milvus-lite")}


def rows(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


PARTS = {"build": build, "add": add, "remove": remove, "tantivy": tantivy, "milvus": milvus}

if __name__ == "__main__":
    main()
