"""BM25 by bm25s, with what it leaves open: unknown words, k above the corpus, and ties (to the earlier passage)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer

from kard.artifacts import read_json, write_json
from kard.errors import UserError
from kard.recipe import RetrieverSection
from kard.retrieval.scoring import add_scores, best

_SETTINGS = "analysis.json"


@dataclass(frozen=True)
class Hits:
    """Result of one query, best first: positions of passages in the index, and their BM25 scores (all above 0)."""

    positions: np.ndarray
    scores: np.ndarray


class Bm25:
    """A BM25 index over passages (Lucene's idf, as bm25s computes it by default).

    Args:
        index: A filled or loaded bm25s index.
        stemmer: Snowball stemmer's name, or None.
        stopwords: bm25s stop word list's name, or None.
    """

    def __init__(self, index: Any, stemmer: str | None, stopwords: str | None) -> None:
        self.index = index
        self.stemmer = stemmer
        self.stopwords = stopwords
        self.size = int(index.scores["num_docs"])

    @classmethod
    def build(cls, texts: Sequence[str], section: RetrieverSection) -> Bm25:
        """Index texts; their order gives the positions that `search` returns."""
        tokens = _tokenize(texts, section.stemmer, section.stopwords)
        if not tokens.vocab or not any(tokens.vocab):
            raise UserError("knowledge: no passage has a word to search for. Check retriever.stopwords and the texts.")
        index = bm25s.BM25(k1=section.k1, b=section.b, backend="numpy")
        index.index(tokens, show_progress=False)
        return cls(index, section.stemmer, section.stopwords)

    def save(self, folder: Path) -> None:
        """Write the index and how its texts were analysed."""
        self.index.save(folder, show_progress=False)
        write_json(folder / _SETTINGS, {"stemmer": self.stemmer, "stopwords": self.stopwords})

    @classmethod
    def load(cls, folder: Path) -> Bm25:
        """Read an index; queries are analysed as its texts were."""
        index = bm25s.BM25.load(folder, backend="numpy", show_progress=False)
        return cls(index, **read_json(folder / _SETTINGS))

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` best passages for each query.

        Args:
            queries: Any texts; words that the index does not know are ignored.
            k: How many at most; fewer come back where fewer passages share a word with the query.

        Returns:
            One `Hits` a query, by falling score, equal scores by position.
        """
        ids = self._token_ids(queries)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(lambda tokens: Hits(*best(self._scores(tokens), min(k, self.size))), ids))

    def scores(self, query: str) -> np.ndarray:
        """BM25 scores of one query for every passage, shape (passages,); 0 where no word is shared."""
        return self._scores(self._token_ids([query])[0])

    def _scores(self, tokens: np.ndarray) -> np.ndarray:
        arrays = self.index.scores
        scores = np.zeros(self.size, dtype=np.float32)
        add_scores(tokens, arrays["data"], arrays["indices"], arrays["indptr"], scores)
        return scores

    def _token_ids(self, queries: Sequence[str]) -> list[np.ndarray]:
        tokens = _tokenize(queries, self.stemmer, self.stopwords)
        vocabulary: dict[str, int] = self.index.vocab_dict
        to_index = np.full(max(tokens.vocab.values(), default=-1) + 1, -1, dtype=np.int64)
        for word, number in tokens.vocab.items():
            to_index[number] = vocabulary.get(word, -1) if word else -1
        found = [to_index[np.asarray(ids, dtype=np.int64)] for ids in tokens.ids]
        return [ids[ids >= 0] for ids in found]


def _tokenize(texts: Sequence[str], stemmer: str | None, stopwords: str | None) -> Any:
    found = _stemmer(stemmer) if stemmer else None
    try:
        return bm25s.tokenize(list(texts), stopwords=stopwords or [], stemmer=found, show_progress=False)
    except ValueError as error:
        raise UserError(
            f"retriever.stopwords: no stop word list '{stopwords}'. Choose null, or a language (english, german, …)."
        ) from error


def _stemmer(name: str) -> Any:
    try:
        return Stemmer.Stemmer(name)
    except KeyError as error:
        known = ", ".join(Stemmer.algorithms())
        raise UserError(f"retriever.stemmer: no Snowball stemmer '{name}'. Choose null or one of: {known}.") from error
