"""BM25 over memory-mapped postings: unknown words find nothing, ties go to the earlier passage, batches use all cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
_QUERIES_AT_ONCE = 16  # that a core takes on
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
        k = min(k, self.size if allowed is None else len(among))
        if k < 1:
            return [Hits.none() for _ in queries]
        terms, weights, bounds = self._queries(queries)

        def found(first: int) -> list[Hits]:
            own = bounds[first : first + block + 1]
            shape = (len(own) - 1, k)
            positions, scores = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
            counts = best_of_each(terms, weights, own, *self._postings, self.size, _WINDOW, among, positions, scores)
            # Copies: a hit must not keep the arrays of its whole block.
            return [
                Hits(p[:n].copy(), s[:n].copy()) for p, s, n in zip(positions, scores, counts.tolist(), strict=True)
            ]

        cores = os.cpu_count() or 1
        block = min(_QUERIES_AT_ONCE, -(-len(queries) // cores)) or 1
        with ThreadPoolExecutor(cores) as threads:
            return [hits for some in threads.map(found, range(0, len(queries), block)) for hits in some]

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """BM25 scores of given passages for each query; 0 where no word is shared."""
        terms, weights, bounds = self._queries(queries)
        rows = zip(pairwise(bounds.tolist()), positions, strict=True)
        return [
            self._scores(terms[first:last], weights[first:last], np.asarray(places, dtype=np.int32))
            for (first, last), places in rows
        ]

    def _scores(self, terms: np.ndarray, weights: np.ndarray, positions: np.ndarray) -> np.ndarray:
        data, indices, indptr = self._postings
        scores = np.zeros(len(positions), dtype=np.float32)
        for term, weight in zip(terms, weights, strict=True):
            own = slice(indptr[term], indptr[term + 1])
            places = np.minimum(np.searchsorted(indices[own], positions), own.stop - own.start - 1)
            scores += np.where(indices[own][places] == positions, weight * data[own][places], 0)
        return scores

    def _queries(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The queries' different terms, how often each stands in its query, and where each query's begin (and the end); those
        that can add most to a score first."""
        digests, numbers, bounds = self.analysis.terms(texts)
        places = np.minimum(np.searchsorted(self.terms, digests), len(self.terms) - 1)
        known = (self.terms[places] == digests)[numbers]
        queries = np.repeat(np.arange(len(texts)), np.diff(bounds))[known]
        different, counts = np.unique(queries * max(1, len(digests)) + numbers[known], return_counts=True)
        queries, numbers = np.divmod(different, max(1, len(digests)))
        terms = places[numbers]
        order = np.lexsort((-(counts * self.maxima[terms]), queries))
        ends = np.searchsorted(queries, np.arange(len(texts) + 1))
        return terms[order], counts[order].astype(np.float32), ends


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def best_of_each(
    terms: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    size: int,
    window_size: int,
    among: np.ndarray,
    positions: np.ndarray,
    scores: np.ndarray,
) -> np.ndarray:
    """The best passages of several queries, best first, equal scores by position.

    Args:
        terms, weights, bounds: The queries' terms, and where each query's begin (and the end).
        positions, scores: Get the result, shape (queries, k).

    Other arguments are those of `best_passages`. Returns how many passages each query has found.
    """
    counts = np.empty(len(positions), dtype=np.int64)
    for query in range(len(positions)):
        own = slice(bounds[query], bounds[query + 1])
        best, values = best_passages(
            terms[own], weights[own], data, indices, indptr, size, positions.shape[1], window_size, among
        )
        counts[query] = found = len(best)
        if found < positions.shape[1]:  # with as many as are wanted they are a heap already
            for root in range(found // 2 - 1, -1, -1):
                _sift(values, best, root)
        for last in range(found - 1, 0, -1):
            values[0], values[last] = values[last], values[0]
            best[0], best[last] = best[last], best[0]
            _sift(values[:last], best[:last], 0)
        positions[query, :found], scores[query, :found] = best, values
    return counts


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
