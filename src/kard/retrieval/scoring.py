"""The inner loop of BM25 search over a bm25s index, compiled by numba and cached on disk."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _worse(score_a: float, position_a: int, score_b: float, position_b: int) -> bool:
    return score_a < score_b or (score_a == score_b and position_a > position_b)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def add_scores(
    tokens: np.ndarray, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, scores: np.ndarray
) -> None:
    """Add the BM25 scores of a query's tokens (a repeated token counts as often as it stands there) to `scores`."""
    for token in tokens:
        for place in range(indptr[token], indptr[token + 1]):
            scores[indices[place]] += data[place]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and scores of the `k` best above 0, by falling score, equal scores by rising position (a binary heap)."""
    heap_scores = np.empty(k, dtype=scores.dtype)
    heap_positions = np.empty(k, dtype=np.int64)
    size = 0
    for position in range(len(scores)):
        score = scores[position]
        if score <= 0:
            continue
        if size < k:
            node = size
            size += 1
            while node > 0 and _worse(score, position, heap_scores[(node - 1) // 2], heap_positions[(node - 1) // 2]):
                heap_scores[node] = heap_scores[(node - 1) // 2]
                heap_positions[node] = heap_positions[(node - 1) // 2]
                node = (node - 1) // 2
        elif size and score > heap_scores[0]:
            node = 0
            while True:
                child = 2 * node + 1
                if child >= size:
                    break
                right = child + 1
                if right < size and _worse(
                    heap_scores[right], heap_positions[right], heap_scores[child], heap_positions[child]
                ):
                    child = right
                if not _worse(heap_scores[child], heap_positions[child], score, position):
                    break
                heap_scores[node] = heap_scores[child]
                heap_positions[node] = heap_positions[child]
                node = child
        else:
            continue
        heap_scores[node] = score
        heap_positions[node] = position
    # Merge sort is stable: with positions in order first, equal scores keep them so.
    by_position = np.argsort(heap_positions[:size], kind="mergesort")
    order = by_position[np.argsort(-heap_scores[:size][by_position], kind="mergesort")]
    return heap_positions[:size][order], heap_scores[:size][order]
