"""BM25 over memory-mapped postings: unknown words find nothing, ties go to the earlier passage, batches use all cores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from kard.artifacts.files import read_json
from kard.errors import UserError
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis
from kard.retrieval.retriever import Hits

# Passages whose scores are added up at once: few enough for the processor's nearest cache.
_WINDOW = 1 << 14
_ALL = np.empty(0, dtype=np.int64)


class Bm25:
    """A BM25 index on disk (Lucene's idf and term weight, without the factor k1 + 1), read as queries need it.

    Args:
        folder: Written by `build_bm25`.
        section: The recipe's; queries are analysed as the index's texts were.

    Raises:
        UserError: The index was built with other settings, or is damaged.
    """

    def __init__(self, folder: Path, section: RetrieverSection) -> None:
        settings = read_json(folder / "analysis.json")
        wanted: dict[str, Any] = {"analyzer": section.analyzer, "k1": section.k1, "b": section.b}
        if section.language != "auto":
            wanted["language"] = section.language
        for key, value in wanted.items():
            if settings[key] != value:
                raise UserError(
                    f"{folder}: built with retriever.{key} {settings[key]!r}, the recipe says {value!r}. "
                    "Run the recipe again."
                )
        self.analysis = Analysis(settings["analyzer"], settings["language"])
        self.size = int(settings["size"])
        self.terms = np.memmap(folder / "terms.u64", dtype=np.uint64, mode="r")
        self.maxima = np.memmap(folder / "maxima.f32", dtype=np.float32, mode="r")
        files = (("data.f32", np.float32), ("indices.i32", np.int32), ("indptr.i64", np.int64))
        self._postings = [np.asarray(np.memmap(folder / name, dtype=kind, mode="r")) for name, kind in files]
        data, indices, indptr = self._postings
        if not len(data) == len(indices) == indptr[-1] or not len(indptr) - 1 == len(self.terms) == len(self.maxima):
            raise UserError(f"{folder}: damaged (its files do not fit together). Delete it and run the recipe again.")

    def search(self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None) -> list[Hits]:
        """The `k` best passages for each query.

        Args:
            queries: Any texts; words that the index does not know are ignored.
            k: How many at most; fewer come back where fewer passages share a word with the query.
            allowed: Whether each passage may be found, bool; None: all.

        Returns:
            One `Hits` a query, by falling score, equal scores by position.
        """
        among = _ALL if allowed is None else np.flatnonzero(allowed)

        def hits(query: tuple[np.ndarray, np.ndarray]) -> Hits:
            return Hits.ordered(*best_passages(*query, *self._postings, self.size, k, _WINDOW, among))

        if k < 1 or (allowed is not None and not len(among)):
            return [Hits.none() for _ in queries]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(hits, self._queries(queries)))

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """BM25 scores of given passages for each query; 0 where no word is shared."""
        rows = zip(self._queries(queries), positions, strict=True)
        return [self._scores(*query, np.asarray(places, dtype=np.int32)) for query, places in rows]

    def _scores(self, terms: np.ndarray, weights: np.ndarray, positions: np.ndarray) -> np.ndarray:
        data, indices, indptr = self._postings
        scores = np.zeros(len(positions), dtype=np.float32)
        for term, weight in zip(terms, weights, strict=True):
            own = slice(indptr[term], indptr[term + 1])
            places = np.minimum(np.searchsorted(indices[own], positions), own.stop - own.start - 1)
            scores += np.where(indices[own][places] == positions, weight * data[own][places], 0)
        return scores

    def _queries(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each query's different terms, and how often each stands in it; those that can add most to a score first."""
        digests, numbers, bounds = self.analysis.terms(texts)
        places = np.minimum(np.searchsorted(self.terms, digests), len(self.terms) - 1)
        known = self.terms[places] == digests
        for first, last in pairwise(bounds.tolist()):
            own, counts = np.unique(numbers[first:last], return_counts=True)
            terms, counts = places[own][known[own]], counts[known[own]]
            order = np.argsort(-(counts * self.maxima[terms]), kind="stable")
            yield terms[order], counts[order].astype(np.float32)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def best_passages(
    terms: np.ndarray,
    weights: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    size: int,
    k: int,
    window_size: int,
    among: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best passages above 0. Scores are added up in the order of `terms`, so that equal passages have equal scores.

    Args:
        terms, weights: A query's, see `Bm25`.
        data, indices, indptr: Scores and passages of all postings, and where each term's begin.
        size: How many passages there are.
        k: How many are wanted, at least one.
        window_size: Passages whose scores are added up at once.
        among: Rising positions of the passages that may be found; empty: all may.

    Returns:
        Positions and scores, in no order; of equal scores the earlier positions.
    """
    firsts, lasts = indptr[terms], indptr[terms + 1]
    best, scores, found = np.empty(k, dtype=np.int64), np.zeros(k, dtype=np.float32), 0
    worst = np.float32(0)
    window = np.empty(min(size, window_size), dtype=np.float32)
    is_filtered, candidate, past = len(among) > 0, 0, 0
    for begin in range(0, size, window_size):
        end = min(begin + window_size, size)
        candidate, past = past, past + int(np.searchsorted(among[past:], end)) if is_filtered else end
        window[:] = 0
        for number in range(len(terms)):
            first = firsts[number]
            firsts[number] = last = first + np.searchsorted(indices[first : lasts[number]], end)
            if candidate == past:  # nothing here may be found
                continue
            for place in range(first, last):
                window[np.uint32(indices[place] - begin)] += weights[number] * data[place]
        for number in range(candidate, past):
            position = among[number] if is_filtered else number
            score = window[np.uint32(position - begin)]
            if score <= worst:
                continue
            if found < k:
                best[found], scores[found] = position, score
                found += 1
                if found < k:
                    continue
                for root in range(k // 2 - 1, -1, -1):
                    _sift(scores, best, root)
            else:
                best[0], scores[0] = position, score
                _sift(scores, best, 0)
            worst = scores[0]
    return best[:found], scores[:found]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sift(scores: np.ndarray, positions: np.ndarray, root: int) -> None:
    """Bring a heap into order from a place on: on top is the lowest score, of equal ones the last position."""
    child = 2 * root + 1
    while child < len(scores):
        if child + 1 < len(scores) and _is_worse(scores, positions, child + 1, child):
            child += 1
        if not _is_worse(scores, positions, child, root):
            return
        scores[root], scores[child] = scores[child], scores[root]
        positions[root], positions[child] = positions[child], positions[root]
        root = child
        child = 2 * root + 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _is_worse(scores: np.ndarray, positions: np.ndarray, one: int, other: int) -> bool:
    return scores[one] < scores[other] or (scores[one] == scores[other] and positions[one] > positions[other])
