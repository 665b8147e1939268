"""Texts for the retrieval benchmarks: passages and queries of about 100 words, put together from real sentences by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from kard.knowledge.passages import sentences

WORDS = 100


def real_sentences(folder: Path | None) -> list[str]:
    """Sentences of every passages.jsonl below a folder, or of the Wikipedia summaries in the extra ``demo``."""
    if folder is None:
        from kard.questions.wikivital import read_articles

        texts = [article.extract for article in read_articles()]
    else:
        paths = sorted(folder.rglob("passages.jsonl"))
        texts = [json.loads(line)["text"] for path in paths for line in path.open(encoding="utf-8")]
    return [sentence for text in texts for sentence in sentences(text) if len(sentence.split()) > 3]


def texts(pool: list[str], count: int, seed: int) -> Iterator[str]:
    """Texts of about 100 words."""
    chance = random.Random(seed)
    for _ in range(count):
        chosen: list[str] = []
        words = 0
        while words < WORDS:
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
