"""Cutting text into words, compiled by numba: one pass over the code points of many texts, on all cores."""

from __future__ import annotations

import numpy as np
from numba import njit

# What a character may do in a word (Unicode Standard Annex 29, word boundaries, in Lucene's reading of it).
OTHER, LETTER, DIGIT, CONNECTOR, KATAKANA, MID_LETTER, MID_NUMBER, MID_BOTH, MARK, ALONE, COMPLEX, PAIRED = range(12)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _joined(before: int, after: int) -> bool:
    """Whether two neighbours stand in one word."""
    if after in (LETTER, DIGIT):
        return before in (LETTER, DIGIT, CONNECTOR)
    if after == CONNECTOR:
        return before in (LETTER, DIGIT, CONNECTOR, KATAKANA)
    if after == KATAKANA:
        return before in (KATAKANA, CONNECTOR)
    return after == COMPLEX and before == COMPLEX


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _past_marks(codes: np.ndarray, classes: np.ndarray, place: int, end: int) -> int:
    while place < end and classes[codes[place]] == MARK:
        place += 1
    return place


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _word_end(codes: np.ndarray, classes: np.ndarray, start: int, end: int) -> int:
    """Where the word that begins at `start` ends: letters and digits, with a full stop or apostrophe between two of them."""
    before = classes[codes[start]]
    place = _past_marks(codes, classes, start + 1, end)
    while place < end and before != ALONE:
        kind = classes[codes[place]]
        if kind in (MID_LETTER, MID_NUMBER, MID_BOTH):
            after = _past_marks(codes, classes, place + 1, end)
            if after >= end or classes[codes[after]] != before:
                break
            if not (before == LETTER and kind != MID_NUMBER) and not (before == DIGIT and kind != MID_LETTER):
                break
            place = after
        elif not _joined(before, kind):
            break
        before = classes[codes[place]]
        place = _past_marks(codes, classes, place + 1, end)
    return place


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _is_word(codes: np.ndarray, classes: np.ndarray, start: int, end: int) -> bool:
    """Not of underscores alone."""
    while start < end and classes[codes[start]] in (CONNECTOR, MARK):
        start += 1
    return start < end


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _slot_of(codes: np.ndarray, start: int, end: int, slots: np.ndarray, firsts: np.ndarray) -> np.int64:
    """Slot of a word in the hash table, or the free one where it belongs."""
    code = np.uint64(14695981039346656037)
    for place in range(start, end):
        code = (code ^ np.uint64(codes[place])) * np.uint64(1099511628211)
    mask = len(slots) - 1
    slot = np.int64(code ^ (code >> np.uint64(29))) & mask
    while slots[slot] >= 0:
        first = firsts[slots[slot], 0]
        length = firsts[slots[slot], 1] - first
        step = 0
        while step < length and length == end - start and codes[first + step] == codes[start + step]:
            step += 1
        if step == length:
            break
        slot = (slot + 1) & mask
    return slot


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scan(
    codes: np.ndarray, bounds: np.ndarray, classes: np.ndarray, shortest: int, singles: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of texts, numbered in the order in which they are first seen.

    Args:
        codes: Code points of all texts, one after the other.
        bounds: Where each text begins, and the end of the last one.
        classes: What each code point may do in a word, a byte each.
        shortest: Words of fewer characters are left out; single characters of scripts without spaces are not.
        singles: Whether each character of a pair is a word as well; its number n is given as -1 - n.

    Returns:
        The word numbers, where each text's begin among them (and the end), and first and last place of each word in `codes`.
    """
    numbers = np.empty(len(codes) * (2 if singles else 1), dtype=np.int32)
    ends = np.zeros(len(bounds), dtype=np.int64)
    slots = np.full(1 << 12, -1, dtype=np.int32)
    firsts = np.empty((1 << 11, 2), dtype=np.int64)
    found = known = 0
    for text in range(len(bounds) - 1):
        place, end = bounds[text], bounds[text + 1]
        while place < end:
            kind = classes[codes[place]]
            if kind in (OTHER, MID_LETTER, MID_NUMBER, MID_BOTH, MARK):
                place += 1
                continue
            if kind == PAIRED:
                # Overlapping pairs; a last one that has no neighbour was in a pair, unless it stands alone.
                stop = place + 1 + int(place + 1 < end and classes[codes[place + 1]] == PAIRED)
                step = place + 1
                wanted = stop - place == 2 or place == bounds[text] or classes[codes[place - 1]] != PAIRED
            else:
                stop = step = _word_end(codes, classes, place, end)
                wanted = stop - place >= shortest and _is_word(codes, classes, place, stop)
            single = singles and kind == PAIRED and not (wanted and stop == place + 1)
            for last in (stop if wanted else place, place + 1 if single else place):
                if last == place:
                    continue
                slot = _slot_of(codes, place, last, slots, firsts)
                if slots[slot] < 0:
                    slots[slot] = known
                    firsts[known, 0] = place
                    firsts[known, 1] = last
                    known += 1
                numbers[found] = slots[slot]
                found += 1
                if known == len(firsts):
                    slots, firsts = _grown(codes, firsts)
            if single:
                numbers[found - 1] = -1 - numbers[found - 1]
            place = step
        ends[text + 1] = found
    return numbers[:found].copy(), ends, firsts[:known].copy()


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _grown(codes: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    larger = np.empty((4 * len(firsts), 2), dtype=np.int64)
    larger[: len(firsts)] = firsts
    slots = np.full(8 * len(firsts), -1, dtype=np.int32)
    for number in range(len(firsts)):
        slots[_slot_of(codes, firsts[number, 0], firsts[number, 1], slots, larger)] = number
    return slots, larger
