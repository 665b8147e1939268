"""Building a BM25 index in bounded memory: blocks of texts become sorted runs on disk, which are then merged term by term.

The index is three memory-mapped arrays, the postings of all terms one after the other (as in bm25s): ``indptr.i64`` where each
term's begin, ``indices.i32`` the passages, ``data.f32`` the terms' BM25 scores in them, ``maxima.f32`` the highest of each; and
``terms.u64``, the terms' sorted digests, which gives a term its number.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kard.artifacts import write_json
from kard.errors import UserError
from kard.progress import progress
from kard.retrieval.analysis import Analysis
from kard.retrieval.scoring import count, place_postings

BLOCK = 20_000
# Postings merged at once: 8 bytes each.
_MERGED = 1 << 25
_PENDING_TERMS = 1 << 20


@dataclass(frozen=True)
class Block:
    """A run on disk: the postings of some texts, by term. Its folder is renamed when it is whole."""

    folder: Path
    first_text: int

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def build_index(texts: Sequence[str], analysis: Analysis, k1: float, b: float, folder: Path) -> None:
    """Write an index of texts; what an earlier attempt left in `folder` is used.

    Args:
        texts: Read a block at a time.
        analysis: How they are cut into terms.
        k1: How soon repeating a word stops counting.
        b: How much long texts are held back.
        folder: Holds the runs while the index is built, the index in the end.

    Raises:
        UserError: No text has a word.
    """
    runs = folder / "runs"
    blocks = [Block(runs / f"{begin}", begin) for begin in range(0, len(texts), BLOCK)]
    runs.mkdir(parents=True, exist_ok=True)
    with progress("index", len(texts), "passages") as advance, ThreadPoolExecutor(os.cpu_count()) as threads:
        for size in threads.map(lambda block: _write_block(block, texts, analysis), blocks):
            advance(size)
    _merge(blocks, analysis, k1, b, folder)
    shutil.rmtree(runs)


def _write_block(block: Block, texts: Sequence[str], analysis: Analysis) -> int:
    size = min(BLOCK, len(texts) - block.first_text)
    if block.folder.exists():
        return size
    terms, numbers, bounds, lengths = analysis.indexed(texts[block.first_text : block.first_text + size])
    starts, places, counts = count(numbers, bounds, len(terms))
    partial = block.folder.with_name(block.folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    arrays = {"terms": terms, "starts": starts, "texts": places, "counts": counts, "lengths": lengths}
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    partial.rename(block.folder)
    return size


def _merge(blocks: Sequence[Block], analysis: Analysis, k1: float, b: float, folder: Path) -> None:
    terms, frequencies = _vocabulary(blocks)
    if not len(terms):
        raise UserError("knowledge: no passage has a word to search for. Check retriever.stopwords and the texts.")
    lengths = np.concatenate([block.array("lengths") for block in blocks])
    # Lucene's average leaves out texts without a word, bm25s's does not.
    average = lengths.sum() / (np.count_nonzero(lengths) if analysis.analyzer == "lucene" else len(lengths))
    if analysis.analyzer == "lucene":
        lengths = lucene_length(lengths)
    norms = (k1 * (1 - b + b * lengths / average)).astype(np.float32)
    idf = np.log(1 + (len(lengths) - frequencies + 0.5) / (frequencies + 0.5))
    indptr = np.concatenate(([0], np.cumsum(frequencies)))
    maxima = np.empty(len(terms), dtype=np.float32)
    terms.tofile(folder / "terms.u64")
    indptr.tofile(folder / "indptr.i64")
    with (
        open(folder / "indices.i32", "wb") as indices,
        open(folder / "data.f32", "wb") as data,
        progress("merge", int(indptr[-1]), "postings") as advance,
    ):
        for begin, end in _ranges(indptr):
            merged = _merge_range(blocks, terms[begin:end], indptr[begin : end + 1], idf[begin:end], norms)
            merged[0].tofile(indices)
            merged[1].tofile(data)
            maxima[begin:end] = np.maximum.reduceat(merged[1], indptr[begin:end] - indptr[begin])
            advance(len(merged[0]))
    maxima.tofile(folder / "maxima.f32")
    write_json(
        folder / "analysis.json",
        {"size": len(lengths), "terms": len(terms), "postings": int(indptr[-1]), "k1": k1, "b": b} | asdict(analysis),
    )


def _vocabulary(blocks: Sequence[Block]) -> tuple[np.ndarray, np.ndarray]:
    """All terms, sorted, and in how many texts each is."""
    terms = np.empty(0, dtype=np.uint64)
    pending: list[np.ndarray] = []
    for block in blocks:
        pending.append(block.array("terms"))
        # Sorting everything anew for each block would take quadratic time.
        if block is blocks[-1] or sum(map(len, pending)) > max(len(terms), _PENDING_TERMS):
            terms = np.unique(np.concatenate([terms, *pending]))
            pending.clear()
    frequencies = np.zeros(len(terms), dtype=np.int64)
    for block in blocks:
        frequencies[np.searchsorted(terms, block.array("terms"))] += np.diff(block.array("starts"))
    return terms, frequencies


def _ranges(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Stretches of terms whose postings fit in memory together."""
    begin = 0
    while begin < len(indptr) - 1:
        end = max(begin + 1, int(np.searchsorted(indptr, indptr[begin] + _MERGED, side="right")) - 1)
        yield begin, end
        begin = end


def _merge_range(
    blocks: Sequence[Block], terms: np.ndarray, indptr: np.ndarray, idf: np.ndarray, norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    indices = np.empty(indptr[-1] - indptr[0], dtype=np.int32)
    data = np.empty(len(indices), dtype=np.float32)
    after = indptr[:-1] - indptr[0]
    for block in blocks:
        own = block.array("terms")
        begin, end = np.searchsorted(own, terms[0]), np.searchsorted(own, terms[-1], side="right")
        if begin == end:
            continue
        starts = np.asarray(block.array("starts")[begin : end + 1])
        texts, counts = (np.asarray(block.array(name)[starts[0] : starts[-1]]) for name in ("texts", "counts"))
        numbers = np.searchsorted(terms, own[begin:end])
        place_postings(numbers, starts, texts, counts, block.first_text, idf, norms, after, indices, data)
    return indices, data


def lucene_length(lengths: np.ndarray) -> np.ndarray:
    """Lengths as Lucene keeps them in a byte: exact below 40, then the four leading bits of what is above 24."""
    above = np.maximum(lengths - 24, 0)
    shift = np.maximum(np.floor(np.log2(np.maximum(above, 1))).astype(np.int64) - 3, 0)
    return np.where(lengths < 24, lengths, 24 + ((above >> shift) << shift))
