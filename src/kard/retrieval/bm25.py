"""BM25 over memory-mapped postings: unknown words find nothing, ties go to the earlier passage, batches use all cores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from kard.artifacts.files import read_json
from kard.errors import UserError
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis
from kard.retrieval.retriever import Hits

_WINDOW = 1 << 16
# Terms that together can add no more than this share of the score to beat are looked up for promising passages alone.
_OPTIONAL = 0.5
# Bounds are sums of other terms in another order than scores: more than what rounding can make of it.
_ROUNDING = 1 + 1e-5


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

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` best passages for each query.

        Args:
            queries: Any texts; words that the index does not know are ignored.
            k: How many at most; fewer come back where fewer passages share a word with the query.

        Returns:
            One `Hits` a query, by falling score, equal scores by position.
        """

        def hits(text: str) -> Hits:
            positions, scores = best_passages(*self.query(text), *self._postings, self.size, max(k, 1), _WINDOW)
            return Hits(positions[:k], scores[:k])

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(hits, queries))

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """BM25 scores of given passages for each query; 0 where no word is shared."""
        return [
            self._scores(text, np.asarray(places, dtype=np.int32))
            for text, places in zip(queries, positions, strict=True)
        ]

    def _scores(self, text: str, positions: np.ndarray) -> np.ndarray:
        data, indices, indptr = self._postings
        scores = np.zeros(len(positions), dtype=np.float32)
        for term, weight in zip(*self.query(text)[:2], strict=True):
            own = slice(indptr[term], indptr[term + 1])
            places = np.minimum(np.searchsorted(indices[own], positions), own.stop - own.start - 1)
            scores += np.where(indices[own][places] == positions, weight * data[own][places], 0)
        return scores

    def query(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A query's different terms, how often each stands in it, and what each can add to a score, by which they are sorted."""
        digests, numbers, _ = self.analysis.terms([text])
        places = np.minimum(np.searchsorted(self.terms, digests), len(self.terms) - 1)
        known = self.terms[places] == digests
        terms, counts = places[known], np.bincount(numbers, minlength=len(digests))[known]
        bounds = counts * self.maxima[terms]
        order = np.argsort(-bounds, kind="stable")
        return terms[order], counts[order].astype(np.float32), bounds[order]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def best_passages(
    terms: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    size: int,
    k: int,
    window_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best passages above 0, exactly (MaxScore: Turtle & Flood 1995, over windows of passages).

    Once `k` passages are found, terms that can no longer lift a passage above the worst of them by themselves are looked up
    only for passages that the other terms have lifted far enough. Scores are added up in the order of `terms` in any case,
    so that equal passages have equal scores.

    Args:
        terms, weights, bounds: See `Bm25.query`.
        data, indices, indptr: Scores and passages of all postings, and where each term's begin.
        size: How many passages there are.
        k: How many are wanted, at least one.
        window_size: Passages whose scores are added up at once: few enough for the processor's cache.

    Returns:
        Positions and scores, by falling score, equal scores by rising position.
    """
    rest = np.zeros(len(terms) + 1)  # what a term and those after it can add
    for number in range(len(terms) - 1, -1, -1):
        rest[number] = rest[number + 1] + bounds[number] * _ROUNDING
    best, best_scores, worst = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), np.float32(0)
    firsts = indptr[terms]
    lasts = firsts.copy()
    window = np.empty(min(size, window_size), dtype=np.float32)
    for begin in range(0, size, window_size):
        end = min(begin + window_size, size)
        needed = len(terms)
        while needed and rest[needed - 1] <= _OPTIONAL * worst:
            needed -= 1
        for number in range(len(terms)):
            firsts[number] = lasts[number]
            lasts[number] += np.searchsorted(indices[lasts[number] : indptr[terms[number] + 1]], end)
        window[:] = 0
        for number in range(needed):
            for place in range(firsts[number], lasts[number]):
                window[np.uint32(indices[place] - begin)] += weights[number] * data[place]
        found = np.flatnonzero(window[: end - begin] + rest[needed] > worst)
        scores = window[found]
        for number in range(needed, len(terms)):
            for place in range(len(found)):
                if scores[place] + rest[number] > worst:
                    postings = indices[firsts[number] : lasts[number]]
                    posting = np.searchsorted(postings, begin + found[place])
                    if posting < len(postings) and postings[posting] == begin + found[place]:
                        scores[place] += weights[number] * data[firsts[number] + posting]
        better = scores > worst
        best = np.concatenate((best, begin + found[better]))
        best_scores = np.concatenate((best_scores, scores[better]))
        if len(best) >= k:
            worst = np.partition(best_scores, len(best) - k)[len(best) - k]
            kept = best_scores > worst
            kept[np.flatnonzero(best_scores == worst)[: k - kept.sum()]] = True  # of equal ones the first
            best, best_scores = best[kept], best_scores[kept]
    order = np.argsort(-best_scores, kind="mergesort")  # stable
    return best[order], best_scores[order]
