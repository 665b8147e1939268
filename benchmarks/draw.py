"""Drawing the passages that questions are asked about from many: seconds, and the whole process's peak memory.

Usage: python benchmarks/draw.py [--passages N] [--data FOLDER]
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import corpus

from kard.data.draw import draw
from kard.data.passage import Passage, read_passages, write_passages
from kard.recipe.sections import GeneratedKind

WANTED = {"train": 2000, "dev": 100, "test": 400}
KINDS: tuple[GeneratedKind, ...] = ("multiple_choice", "yes_no", "short")
A_DOCUMENT = 5


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl in it or below")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "passages.jsonl"
        texts = corpus.texts(corpus.real_sentences(arguments.data), arguments.passages, seed=0)
        write_passages(path, (passage(number, text) for number, text in enumerate(texts)))
        passages = read_passages(path)
        start = time.perf_counter()
        drawn = draw(passages, WANTED, KINDS, seed=0)
        seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row = {
        "passages": arguments.passages,
        "drawn": len(drawn.items),
        "seconds": round(seconds, 1),
        "gb": round(gigabytes, 2),
    }
    print(json.dumps({"benchmark": "draw", **row, "goal": "<= 60 s, <= 1 GB"}))


def passage(number: int, text: str) -> Passage:
    document, part = divmod(number, A_DOCUMENT)
    return Passage(f"d{document}#{part}", f"Title {document}", text, f"d{document}", f"d{document}")


if __name__ == "__main__":
    main()
