"""Building a BM25 index in bounded memory: blocks of texts become sorted runs on disk, which are then merged term by term.

The index is memory-mapped arrays, the postings of all terms one after the other (as in bm25s): ``indptr.i64`` where each term's
begin, ``indices.i32`` the passages, ``data.f32`` the terms' BM25 scores in them, ``maxima.f32`` the highest of each; and
``terms.u64``, the terms' sorted digests, which gives a term its number. ``counts.u16``, how often a term is in a passage, and
``lengths.i32`` of the passages make an index a run itself: the next version of the documents is merged from it and what is new.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kard.artifacts.files import read_json, write_json
from kard.errors import UserError
from kard.progress import progress
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis, analysis_for
from kard.retrieval.retriever import Earlier

BLOCK = 20_000
# Postings merged at once: with what is computed from them, 40 bytes each.
_MERGED = 1 << 23
_MOST = 2**16 - 1  # a word that is in a passage more often counts so many times


@dataclass(frozen=True)
class _Run:
    """Postings by term: of a block of texts, or of an earlier index, where `new` maps its positions (−1: removed)."""

    first: int
    terms: np.ndarray
    starts: np.ndarray
    texts: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    new: np.ndarray | None = None

    def postings(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Passages and counts of the terms from `begin` to `end`, and how many each term has."""
        starts = np.asarray(self.starts[begin : end + 1], dtype=np.int64)
        texts, counts = (array[starts[0] : starts[-1]] for array in (self.texts, self.counts))
        if self.new is None:
            return texts + self.first, counts, np.diff(starts)
        mapped = self.new[texts]
        there = mapped >= 0
        return mapped[there], counts[there], np.diff(np.concatenate(([0], np.cumsum(there)))[starts - starts[0]])

    def frequencies(self) -> np.ndarray:
        """How many passages each term is in."""
        if self.new is None:
            return np.diff(self.starts)
        parts = [self.postings(begin, end)[2] for begin, end in _ranges(self.starts)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def build_bm25(texts: Sequence[str], section: RetrieverSection, folder: Path, earlier: Earlier | None = None) -> None:
    """Write an index of texts; what an earlier attempt left in `folder` is used.

    Args:
        texts: Read a block at a time.
        section: The recipe's: how they are cut into terms, and k1 and b.
        folder: Holds the runs while the index is built, the index in the end.
        earlier: An index whose passages are the first ones of `texts`: these are not read. All files are the same as without.

    Raises:
        UserError: No text has a word.
    """
    runs = folder / "runs"
    if not (folder / "analysis.json").exists():
        runs.mkdir(parents=True, exist_ok=True)
        known = read_json(earlier.folder / "analysis.json") if earlier else None
        analysis = Analysis(known["analyzer"], known["language"]) if known else analysis_for(section, texts)
        kept = len(earlier.kept) if earlier else 0
        begins = range(kept, len(texts), BLOCK)
        with progress("index", len(texts) - kept, "passages") as advance:
            for begin in begins:
                if not (runs / str(begin)).exists():
                    _write_block(runs / str(begin), texts[begin : begin + BLOCK], analysis)
                advance(min(BLOCK, len(texts) - begin))
        blocks = [_block(runs / str(begin)) for begin in begins]
        _merge([*([_earlier_run(earlier)] if earlier else []), *blocks], section, analysis, folder)
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
    counts = np.minimum(postings.data, _MOST).astype(np.uint16)
    arrays = {"starts": postings.indptr, "texts": postings.indices, "counts": counts}
    for name, array in {"terms": terms, "lengths": lengths.astype(np.int32), **arrays}.items():
        np.save(partial / f"{name}.npy", array)
    partial.rename(block)


def _block(folder: Path) -> _Run:
    names = ("terms", "starts", "texts", "counts", "lengths")
    terms, starts, texts, counts, lengths = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in names)
    return _Run(int(folder.name), terms, starts, texts, counts, lengths)


def _earlier_run(earlier: Earlier) -> _Run:
    files = {"terms.u64": np.uint64, "indptr.i64": np.int64, "indices.i32": np.int32, "counts.u16": np.uint16}
    terms, starts, texts, counts = (np.memmap(earlier.folder / name, kind, "r") for name, kind in files.items())
    lengths = np.fromfile(earlier.folder / "lengths.i32", dtype=np.int32)
    new = np.full(len(lengths), -1, dtype=np.int32)
    new[earlier.kept] = np.arange(len(earlier.kept))
    return _Run(0, terms, starts, texts, counts, lengths[earlier.kept], new)


def _merge(runs: Sequence[_Run], section: RetrieverSection, analysis: Analysis, folder: Path) -> None:
    own = [run.frequencies() for run in runs]
    terms = np.unique(np.concatenate([np.empty(0, np.uint64), *(run.terms for run in runs)]))
    frequencies = np.zeros(len(terms), dtype=np.int64)
    for run, counted in zip(runs, own, strict=True):
        frequencies[np.searchsorted(terms, run.terms)] += counted
    terms, frequencies = terms[frequencies > 0], frequencies[frequencies > 0]
    if not len(terms):
        raise UserError("knowledge: no passage has a word to search for. Check retriever.language and the texts.")
    lengths = np.concatenate([run.lengths for run in runs])
    norms = _norms(lengths.astype(np.int64), section)
    idf = np.log(1 + (len(lengths) - frequencies + 0.5) / (frequencies + 0.5))
    indptr = np.concatenate(([0], np.cumsum(frequencies)))
    maxima = np.empty(len(terms), dtype=np.float32)
    with (
        open(folder / "indices.i32", "wb") as indices,
        open(folder / "counts.u16", "wb") as counts,
        open(folder / "data.f32", "wb") as data,
        progress("merge", int(indptr[-1]), "postings") as advance,
    ):
        for begin, end in _ranges(indptr):
            passages, often = _merged(runs, terms[begin:end], indptr[begin : end + 1])
            weights = np.repeat(idf[begin:end], frequencies[begin:end])
            many = often.astype(np.int32)  # with float32 that makes float64
            scores = (weights * many / (many + norms[passages])).astype(np.float32)
            for file, array in ((indices, passages), (counts, often), (data, scores)):
                array.tofile(file)
            maxima[begin:end] = np.maximum.reduceat(scores, indptr[begin:end] - indptr[begin])
            advance(len(passages))
    arrays = {"terms.u64": terms, "indptr.i64": indptr, "maxima.f32": maxima, "lengths.i32": lengths}
    for name, array in arrays.items():
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


def _merged(runs: Sequence[_Run], terms: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Passages and counts of some terms' postings: those of each run behind those of the runs before."""
    indices = np.empty(indptr[-1] - indptr[0], dtype=np.int32)
    counts = np.empty(len(indices), dtype=np.uint16)
    after = indptr[:-1] - indptr[0]
    for run in runs:
        begin, end = np.searchsorted(run.terms, terms[0]), np.searchsorted(run.terms, terms[-1], side="right")
        texts, often, sizes = run.postings(int(begin), int(end))
        there = sizes > 0  # of an earlier index a term may have lost all its passages
        numbers, sizes = np.searchsorted(terms, run.terms[begin:end][there]), sizes[there]
        places = np.arange(len(texts)) + np.repeat(after[numbers] - (np.cumsum(sizes) - sizes), sizes)
        indices[places], counts[places] = texts, often
        after[numbers] += sizes
    return indices, counts
