"""BM25 over memory-mapped postings: unknown words find nothing, ties go to the earlier passage, batches use all cores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts import read_json
from kard.errors import UserError
from kard.recipe import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for
from kard.retrieval.building import build_index
from kard.retrieval.retriever import Hits
from kard.retrieval.scoring import scores_at, search


@dataclass(frozen=True)
class Query:
    """A query's different terms by falling bound (what each can add to a score), with how often each stands in it."""

    terms: np.ndarray
    weights: np.ndarray
    bounds: np.ndarray


class Bm25:
    """A BM25 index on disk (Lucene's idf and term weight, without the factor k1 + 1).

    Args:
        folder: Written by `build`; opened in no time, read as queries need it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_json(folder / "analysis.json")
        analyzer, stemmer, stopwords = (self.settings[key] for key in ("analyzer", "stemmer", "stopwords"))
        self.analysis = Analysis(analyzer, stemmer, stopwords, self.settings.get("folds", False))
        self.size = int(self.settings["size"])
        self.terms = np.memmap(folder / "terms.u64", dtype=np.uint64, mode="r")
        self.maxima = np.memmap(folder / "maxima.f32", dtype=np.float32, mode="r")
        names = {"data.f32": np.float32, "indices.i32": np.int32, "indptr.i64": np.int64}
        self._postings = [np.asarray(np.memmap(folder / name, dtype=kind, mode="r")) for name, kind in names.items()]
        data, indices, indptr = self._postings
        if not len(data) == len(indices) == indptr[-1] or not len(indptr) - 1 == len(self.terms) == len(self.maxima):
            raise UserError(f"{folder}: damaged (its files do not fit together). Delete it and run the recipe again.")

    @classmethod
    def build(cls, texts: Sequence[str], section: RetrieverSection, folder: Path) -> Bm25:
        """Index texts into a folder; their order gives the positions that `search` returns."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "analysis.json").exists():
            build_index(texts, analysis_for(section, texts), section.k1, section.b, folder)
        shutil.rmtree(folder / "runs", ignore_errors=True)  # an attempt may have died between the two
        return cls(folder)

    @classmethod
    def load(cls, folder: Path, section: RetrieverSection) -> Bm25:
        """Open an index; queries are analysed as its texts were.

        Raises:
            UserError: The index was built with other settings than the recipe's.
        """
        index = cls(folder)
        wanted: dict[str, Any] = {"analyzer": section.analyzer, "k1": section.k1, "b": section.b}
        if section.analyzer == "standard":
            named = {"stemmer": section.stemmer, "stopwords": section.stopwords}
            wanted |= {key: value for key, value in named.items() if value != "auto"}
        for key, value in wanted.items():
            if index.settings[key] != value:
                raise UserError(
                    f"{folder}: built with retriever.{key} {index.settings[key]!r}, the recipe says {value!r}. "
                    "Run the recipe again."
                )
        return index

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` best passages for each query.

        Args:
            queries: Any texts; words that the index does not know are ignored.
            k: How many at most; fewer come back where fewer passages share a word with the query.

        Returns:
            One `Hits` a query, by falling score, equal scores by position.
        """

        def hits(query: Query) -> Hits:
            return Hits(
                *search(query.terms, query.weights, query.bounds, *self._postings, self.size, min(k, self.size))
            )

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(hits, self._queries(queries)))

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """BM25 scores of given passages for each query; 0 where no word is shared."""
        return [
            scores_at(query.terms, query.weights, *self._postings, np.asarray(places, dtype=np.int64))
            for query, places in zip(self._queries(queries), positions, strict=True)
        ]

    def _queries(self, queries: Sequence[str]) -> list[Query]:
        digests, found, bounds = self.analysis.terms(queries)
        places = np.minimum(np.searchsorted(self.terms, digests), len(self.terms) - 1)
        numbers = np.where(self.terms[places] == digests, places, -1)[found]
        return [self._query(numbers[bounds[i] : bounds[i + 1]]) for i in range(len(queries))]

    def _query(self, numbers: np.ndarray) -> Query:
        terms, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        bounds = counts * self.maxima[terms]
        order = np.argsort(-bounds, kind="stable")
        return Query(terms[order], counts[order].astype(np.float32), bounds[order])
