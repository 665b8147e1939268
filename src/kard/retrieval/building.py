"""Building a BM25 index in bounded memory: blocks of texts become sorted runs on disk, which are then merged term by term.

The index is memory-mapped arrays, the postings of all terms one after the other (as in bm25s): ``indptr.i64`` where each term's
begin, ``indices.i32`` the passages, ``data.f32`` the terms' BM25 scores in them, ``maxima.f32`` the highest of each; and
``terms.u64``, the terms' sorted digests, which gives a term its number.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kard.artifacts.files import write_json
from kard.errors import UserError
from kard.progress import progress
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for

BLOCK = 20_000
# Postings merged at once: 8 bytes each.
_MERGED = 1 << 25


def build_bm25(texts: Sequence[str], section: RetrieverSection, folder: Path) -> None:
    """Write an index of texts; what an earlier attempt left in `folder` is used.

    Args:
        texts: Read a block at a time.
        section: The recipe's: how they are cut into terms, and k1 and b.
        folder: Holds the runs while the index is built, the index in the end.

    Raises:
        UserError: No text has a word.
    """
    runs = folder / "runs"
    if not (folder / "analysis.json").exists():
        runs.mkdir(parents=True, exist_ok=True)
        analysis = analysis_for(section, texts)
        blocks = [runs / str(begin) for begin in range(0, len(texts), BLOCK)]
        with progress("index", len(texts), "passages") as advance:
            for begin, block in zip(range(0, len(texts), BLOCK), blocks, strict=True):
                if not block.exists():
                    _write_block(block, texts[begin : begin + BLOCK], analysis)
                advance(min(BLOCK, len(texts) - begin))
        _merge(blocks, section, analysis, folder)
    shutil.rmtree(runs, ignore_errors=True)  # an attempt may have died between the two


def _write_block(block: Path, texts: Sequence[str], analysis: Analysis) -> None:
    """A run on disk, the postings of some texts by term: a folder that is renamed when it is whole."""
    from scipy.sparse import coo_array

    terms, numbers, bounds, lengths = analysis.indexed(texts)
    ones, owners = np.ones(len(numbers), dtype=np.int32), np.repeat(np.arange(len(texts)), np.diff(bounds))
    postings = coo_array((ones, (numbers, owners)), (len(terms), len(texts))).tocsr()  # sums what is twice in a text
    partial = block.with_name(f"{block.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    arrays = {"starts": postings.indptr, "texts": postings.indices, "counts": postings.data}
    for name, array in {"terms": terms, "lengths": lengths, **arrays}.items():
        np.save(partial / f"{name}.npy", array)
    partial.rename(block)


def _array(block: Path, name: str) -> np.ndarray:
    return np.load(block / f"{name}.npy", mmap_mode="r")


def _merge(blocks: Sequence[Path], section: RetrieverSection, analysis: Analysis, folder: Path) -> None:
    terms = np.unique(np.concatenate([np.empty(0, np.uint64), *(_array(block, "terms") for block in blocks)]))
    if not len(terms):
        raise UserError("knowledge: no passage has a word to search for. Check retriever.language and the texts.")
    frequencies = np.zeros(len(terms), dtype=np.int64)
    for block in blocks:
        frequencies[np.searchsorted(terms, _array(block, "terms"))] += np.diff(_array(block, "starts"))
    lengths = np.concatenate([_array(block, "lengths") for block in blocks])
    norms = _norms(lengths, section)
    idf = np.log(1 + (len(lengths) - frequencies + 0.5) / (frequencies + 0.5))
    indptr = np.concatenate(([0], np.cumsum(frequencies)))
    maxima = np.empty(len(terms), dtype=np.float32)
    with (
        open(folder / "indices.i32", "wb") as indices,
        open(folder / "data.f32", "wb") as data,
        progress("merge", int(indptr[-1]), "postings") as advance,
    ):
        for begin, end in _ranges(indptr):
            passages, scores = _merged(blocks, terms[begin:end], indptr[begin : end + 1], idf[begin:end], norms)
            passages.tofile(indices)
            scores.tofile(data)
            maxima[begin:end] = np.maximum.reduceat(scores, indptr[begin:end] - indptr[begin])
            advance(len(passages))
    for name, array in {"terms.u64": terms, "indptr.i64": indptr, "maxima.f32": maxima}.items():
        array.tofile(folder / name)
    settings = {"analyzer": analysis.analyzer, "language": analysis.language, "k1": section.k1, "b": section.b}
    write_json(folder / "analysis.json", {"size": len(lengths), "postings": int(indptr[-1]), **settings})


def _norms(lengths: np.ndarray, section: RetrieverSection) -> np.ndarray:
    """k1 · (1 − b + b · length / average), a value a text."""
    average = lengths.mean()
    if section.analyzer == "lucene":
        average = lengths.sum() / np.count_nonzero(lengths)  # Lucene leaves out texts without a word
        lengths = _lucene_length(lengths)
    return (section.k1 * (1 - section.b + section.b * lengths / average)).astype(np.float32)


def _lucene_length(lengths: np.ndarray) -> np.ndarray:
    """Lengths as Lucene keeps them in a byte: exact below 40, then the four leading bits of what is above 24."""
    above = np.maximum(lengths - 24, 0)
    shift = np.maximum(np.floor(np.log2(np.maximum(above, 1))).astype(np.int64) - 3, 0)
    return np.where(lengths < 24, lengths, 24 + ((above >> shift) << shift))


def _ranges(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Stretches of terms whose postings fit in memory together."""
    begin = 0
    while begin < len(indptr) - 1:
        end = max(begin + 1, int(np.searchsorted(indptr, indptr[begin] + _MERGED, side="right")) - 1)
        yield begin, end
        begin = end


def _merged(
    blocks: Sequence[Path], terms: np.ndarray, indptr: np.ndarray, idf: np.ndarray, norms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Passages and scores of some terms' postings: those of each block behind those of the blocks before."""
    indices = np.empty(indptr[-1] - indptr[0], dtype=np.int32)
    data = np.empty(len(indices), dtype=np.float32)
    after = indptr[:-1] - indptr[0]
    for block in blocks:
        own = _array(block, "terms")
        begin, end = np.searchsorted(own, terms[0]), np.searchsorted(own, terms[-1], side="right")
        starts = np.asarray(_array(block, "starts")[begin : end + 1], dtype=np.int64)
        texts, counts = (_array(block, name)[starts[0] : starts[-1]] for name in ("texts", "counts"))
        texts = texts + int(block.name)
        numbers, sizes = np.searchsorted(terms, own[begin:end]), np.diff(starts)
        places = np.arange(len(texts)) + np.repeat(after[numbers] - (starts[:-1] - starts[0]), sizes)
        indices[places] = texts
        data[places] = np.repeat(idf[numbers], sizes) * counts / (counts + norms[texts])
        after[numbers] += sizes
    return indices, data
