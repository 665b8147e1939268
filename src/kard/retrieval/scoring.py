"""The inner loops of BM25, compiled by numba and cached on disk: counting words, merging postings, searching them."""

from __future__ import annotations

import numpy as np
from numba import njit

WINDOW = 1 << 16
# Terms that together can add no more than this share of the score to beat are looked up for promising passages alone.
_OPTIONAL = 0.5
# Bounds are sums of other terms in another order than scores: more than what rounding can make of it.
_ROUNDING = 1 + 1e-5


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count(terms: np.ndarray, bounds: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Postings of a block of texts.

    Args:
        terms: Term numbers below `size`, text by text.
        bounds: Where each text's begin, and the end.
        size: How many terms there are.

    Returns:
        Where each term's postings begin (and the end), their texts by rising number, and how often the term stands there.
    """
    last = np.full(size, -1, dtype=np.int32)
    starts = np.zeros(size + 1, dtype=np.int64)
    for text in range(len(bounds) - 1):
        for place in range(bounds[text], bounds[text + 1]):
            if last[terms[place]] != text:
                last[terms[place]] = text
                starts[terms[place] + 1] += 1
    starts = np.cumsum(starts)
    texts = np.empty(starts[-1], dtype=np.int32)
    counts = np.zeros(starts[-1], dtype=np.int32)
    after = starts[:-1].copy()
    last[:] = -1
    for text in range(len(bounds) - 1):
        for place in range(bounds[text], bounds[text + 1]):
            term = terms[place]
            if last[term] != text:
                last[term] = text
                texts[after[term]] = text
                after[term] += 1
            counts[after[term] - 1] += 1
    return starts, texts, counts


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def place_postings(
    terms: np.ndarray,
    starts: np.ndarray,
    texts: np.ndarray,
    counts: np.ndarray,
    first_text: int,
    idf: np.ndarray,
    norms: np.ndarray,
    after: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
) -> None:
    """Copy a block's postings behind those of earlier blocks, with their BM25 scores (Lucene's: no factor k1 + 1).

    Args:
        terms: The index's term numbers of the block's terms.
        starts: Where each one's postings begin in `texts` (and the end).
        texts: Texts of the block.
        counts: How often the term stands there.
        first_text: Number of the block's first text in the index.
        idf: A value a term.
        norms: k1 · (1 − b + b · length / average), a value a text.
        after: Where each term's next posting goes; moved on.
        indices: Texts of the index, to be filled.
        data: Scores, to be filled.
    """
    for number in range(len(terms)):
        term = terms[number]
        for place in range(starts[number], starts[number + 1]):
            text = first_text + texts[place - starts[0]]
            frequency = counts[place - starts[0]]
            indices[after[term]] = text
            data[after[term]] = idf[term] * frequency / (frequency + norms[text])
            after[term] += 1


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scores_at(
    terms: np.ndarray,
    weights: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    positions: np.ndarray,
) -> np.ndarray:
    """BM25 scores of a query's terms for the passages at `positions`; the arguments are those of `search`."""
    scores = np.zeros(len(positions), dtype=np.float32)
    for number in range(len(terms)):
        postings = indices[indptr[terms[number]] : indptr[terms[number] + 1]]
        for place in range(len(positions)):
            found = np.searchsorted(postings, positions[place])
            if found < len(postings) and postings[found] == positions[place]:
                scores[place] += weights[number] * data[indptr[terms[number]] + found]
    return scores


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def search(
    terms: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    size: int,
    k: int,
    window_size: int = WINDOW,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best passages above 0, exactly (MaxScore: Turtle & Flood 1995, over windows of passages).

    Once `k` passages are found, terms that can no longer lift a passage above the worst of them by themselves are looked up
    only for passages that the other terms have lifted far enough. Scores are added up in the order of `terms` in any case,
    so that equal passages have equal scores.

    Args:
        terms: The query's different terms, by falling bound.
        weights: How often each stands in the query.
        bounds: The most that each can add to a score.
        data: Scores of all postings.
        indices: Passages of all postings.
        indptr: Where each term's postings begin.
        size: How many passages there are.
        k: How many are wanted.
        window_size: Passages whose scores are added up at once: few enough for the processor's cache.

    Returns:
        Positions and scores, by falling score, equal scores by rising position.
    """
    heap_scores = np.empty(k, dtype=np.float32)
    heap_positions = np.empty(k, dtype=np.int64)
    filled = 0
    rest = np.zeros(len(terms) + 1)
    for number in range(len(terms) - 1, -1, -1):
        rest[number] = rest[number + 1] + bounds[number] * _ROUNDING
    firsts = indptr[terms]
    lasts = firsts.copy()
    scores = np.zeros(min(size, window_size), dtype=np.float32)
    for begin in range(0, size, window_size):
        window = scores[: min(size - begin, window_size)]
        needed = len(terms)
        while filled == k and k > 0 and needed > 0 and rest[needed - 1] <= _OPTIONAL * heap_scores[0]:
            needed -= 1
        for number in range(len(terms)):
            firsts[number] = lasts[number]
            lasts[number] += np.searchsorted(indices[lasts[number] : indptr[terms[number] + 1]], begin + len(window))
        for number in range(needed):
            for place in range(firsts[number], lasts[number]):
                window[np.uint32(indices[place] - begin)] += weights[number] * data[place]
        filled = _collect(
            window, begin, needed, weights, rest, data, indices, firsts, lasts, heap_scores, heap_positions, filled
        )
        window[:] = 0
    # Merge sort is stable: with positions in order first, equal scores keep them so.
    by_position = np.argsort(heap_positions[:filled], kind="mergesort")
    order = by_position[np.argsort(-heap_scores[:filled][by_position], kind="mergesort")]
    return heap_positions[:filled][order], heap_scores[:filled][order]


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _collect(
    window: np.ndarray,
    begin: int,
    needed: int,
    weights: np.ndarray,
    rest: np.ndarray,
    data: np.ndarray,
    indices: np.ndarray,
    firsts: np.ndarray,
    lasts: np.ndarray,
    heap_scores: np.ndarray,
    heap_positions: np.ndarray,
    filled: int,
) -> int:
    """Put a window's passages into the heap, with the scores of the terms after the `needed` ones where they may matter."""
    k = len(heap_scores)
    for place in range(len(window)):
        score = window[place]
        if k == 0 or (filled == k and score + rest[needed] <= heap_scores[0]):
            continue
        for number in range(needed, len(weights)):
            if score + rest[number] <= heap_scores[0]:
                break
            firsts[number] += np.searchsorted(indices[firsts[number] : lasts[number]], begin + place)
            if firsts[number] < lasts[number] and indices[firsts[number]] == begin + place:
                score += weights[number] * data[firsts[number]]
        if score > 0 and (filled < k or score > heap_scores[0]):
            filled = push(score, begin + place, heap_scores, heap_positions, filled)
    return filled


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _worse(score_a: float, position_a: int, score_b: float, position_b: int) -> bool:
    return score_a < score_b or (score_a == score_b and position_a > position_b)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def push(score: float, position: int, heap_scores: np.ndarray, heap_positions: np.ndarray, filled: int) -> int:
    """Put an entry into a heap whose root is the worst one, in the root's place if it is full; returns how many it holds."""
    if filled < len(heap_scores):
        node = filled
        filled += 1
        while node > 0 and _worse(score, position, heap_scores[(node - 1) // 2], heap_positions[(node - 1) // 2]):
            heap_scores[node] = heap_scores[(node - 1) // 2]
            heap_positions[node] = heap_positions[(node - 1) // 2]
            node = (node - 1) // 2
    else:
        node = 0
        while 2 * node + 1 < filled:
            child = 2 * node + 1
            right = child + 1
            if right < filled and _worse(
                heap_scores[right], heap_positions[right], heap_scores[child], heap_positions[child]
            ):
                child = right
            if not _worse(heap_scores[child], heap_positions[child], score, position):
                break
            heap_scores[node] = heap_scores[child]
            heap_positions[node] = heap_positions[child]
            node = child
    heap_scores[node] = score
    heap_positions[node] = position
    return filled
