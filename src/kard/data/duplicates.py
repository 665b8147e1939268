"""Passages that are in the knowledge base already, word for word or nearly: found in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import ceil
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numba import njit

from kard.data.normal import plain
from kard.data.passage import Passage
from kard.progress import progress

_BLOCK = 10_000
_STRETCH = 9
# 64 smallest hashes a passage, four to a band: passages that share nine stretches in ten share a band, practically always.
_BINS, _BANDS = 64, 16
# A shorter passage says something else with one word changed, and means nothing without its title.
_SHORT_WORDS = 20


def duplicates(passages: Sequence[Passage], similar: float, folder: Path) -> np.ndarray:
    """Which passages are the same as an earlier one, or similar to it.

    Args:
        passages: Read a block at a time.
        similar: Share of common stretches of nine characters (of all that either has; letters and digits count) from which
            a passage of 20 words or more counts as similar; 1 finds only the same.
        folder: Holds a file of 128 bytes a passage meanwhile.

    Returns:
        For each passage the position of the earlier one, or -1, shape (passages,).
    """
    exact = np.empty(len(passages), dtype=np.uint64)
    with TemporaryFile(dir=folder) as file:
        bands = np.memmap(file, dtype=np.uint64, mode="w+", shape=(_BANDS, len(passages))) if similar < 1 else None
        _read_all(passages, exact, bands)
        original = np.full(len(passages), -1, dtype=np.int64)
        for position, first in _groups(exact):
            original[position] = first
        if bands is not None:
            with progress("compare similar passages", _BANDS, "parts") as advance:
                for band in bands:
                    _find_similar(passages, similar, np.asarray(band), original)
                    advance(1)
    return _roots(original)


def _read_all(passages: Sequence[Passage], exact: np.ndarray, bands: np.ndarray | None) -> None:
    with progress("find duplicates", len(passages), "passages") as advance:
        for begin in range(0, len(passages), _BLOCK):
            block = [compared(passage) for passage in passages[begin : begin + _BLOCK]]
            exact[begin : begin + len(block)] = [_digest(text) for text, _ in block]
            if bands is not None:
                _fill_bands(block, bands[:, begin : begin + len(block)])
            advance(len(block))


def _find_similar(passages: Sequence[Passage], similar: float, band: np.ndarray, original: np.ndarray) -> None:
    for position, first in _groups(band):
        leader = int(original[first]) if original[first] >= 0 else first
        if band[position] and original[position] < 0 and leader < position:
            pair = [compared(passages[place])[0] for place in (leader, position)]
            if similarity(*pair) >= similar:
                original[position] = leader


def compared(passage: Passage) -> tuple[str, bool]:
    """What of a passage is compared, and whether it is long enough to be similar to another one."""
    text = plain(passage.text)
    if long := text.count(" ") + 1 >= _SHORT_WORDS or len(text) >= 5 * _SHORT_WORDS:
        return text, long
    return plain(passage.full_text) or passage.full_text, long


def similarity(one: str, other: str) -> float:
    """Jaccard's: stretches of nine characters that both have, as a share of all that either has."""
    return _jaccard(stretches(one), stretches(other))


def stretches(text: str) -> set[str]:
    """All stretches of nine characters; of a shorter text itself."""
    return {text[i : i + _STRETCH] for i in range(max(1, len(text) - _STRETCH + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


def similar_earlier(every: Sequence[set[str]], similar: float) -> list[dict[int, float]]:
    """For each set, none of them empty, the places of earlier ones that have this share in common (Jaccard's), with the share.

    Two sets with so much in common share one of their few rarest members: no others are compared.
    """
    frequency = Counter(member for own in every for member in own)
    holders: dict[str, list[int]] = {}
    found: list[dict[int, float]] = []
    for place, own in enumerate(every):
        rarest = sorted(own, key=lambda member: (frequency[member], member))
        some = rarest[: len(own) - ceil(similar * len(own)) + 1]
        earlier = sorted({holder for member in some for holder in holders.get(member, ())})
        pairs = ((one, _jaccard(every[one], own)) for one in earlier)
        found.append({one: share for one, share in pairs if share >= similar})
        for member in some:
            holders.setdefault(member, []).append(place)
    return found


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _fill_bands(block: list[tuple[str, bool]], bands: np.ndarray) -> None:
    for column, (text, long) in enumerate(block):
        if long:
            _sketch(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32), bands[:, column])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sketch(codes: np.ndarray, bands: np.ndarray) -> None:
    """MinHash by one permutation (Li, Owen & Zhang 2012): the smallest hash of each bin, four bins put together in a band."""
    smallest = np.full(_BINS, np.uint64(0xFFFFFFFFFFFFFFFF), dtype=np.uint64)
    for begin in range(max(1, len(codes) - _STRETCH + 1)):
        code = np.uint64(14695981039346656037)
        for place in range(begin, min(begin + _STRETCH, len(codes))):
            code = (code ^ np.uint64(codes[place])) * np.uint64(1099511628211)
        code ^= code >> np.uint64(31)
        code *= np.uint64(0x9E3779B97F4A7C15)
        slot = np.int64(code >> np.uint64(58))
        smallest[slot] = min(smallest[slot], code)
    for band in range(_BANDS):
        code = np.uint64(band + 1)
        for place in range(band * _BINS // _BANDS, (band + 1) * _BINS // _BANDS):
            code = (code ^ smallest[place]) * np.uint64(0x9E3779B97F4A7C15)
            code ^= code >> np.uint64(29)
        bands[band] = code | np.uint64(1)


def _groups(keys: np.ndarray) -> Iterator[tuple[int, int]]:
    """Positions whose key stood there before, each with the first that has it."""
    order = np.argsort(keys, kind="stable")
    new = np.concatenate(([True], keys[order][1:] != keys[order][:-1]))
    firsts = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    yield from zip(order[~new].tolist(), firsts[~new].tolist(), strict=True)


def _roots(original: np.ndarray) -> np.ndarray:
    """A passage whose original is left out itself points to the original's."""
    while True:
        onward = np.where(original >= 0, original[original], -1)
        if not (onward >= 0).any():
            return original
        original = np.where(onward >= 0, onward, original)
