"""Dense retrieval: vectors of passages by sentence-transformers, searched by faiss."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts.files import read_json, write_json
from kard.errors import UserError
from kard.machine.processes import compute_device
from kard.machine.sharing import Compute, led
from kard.progress import progress
from kard.recipe.sections import RetrieverSection
from kard.retrieval.analysis import Analysis
from kard.retrieval.retriever import Earlier, Hits

_BLOCK = 2_048
_ENCODED_AT_ONCE = 32
# With more vectors not all are compared: a query looks into this share of their clusters.
_EXACT = 200_000
_PROBED = 1 / 8


class Encoder:
    """A sentence-transformers model that turns texts and queries into vectors of length 1.

    Args:
        name: The recipe's value.
        online: Whether it may be fetched from the hub; only to build an index, which then finds it on this machine.
    """

    def __init__(self, name: str, online: bool = False) -> None:
        from sentence_transformers import SentenceTransformer

        from kard.models import weights
        from kard.models.at_once import AtOnce

        with weights.loading_explained(name, "retriever.encoder"):
            location = (weights.model_location if online else weights.local_location)(name, "retriever.encoder")
            safe = {**weights.guarded_modules(location), "device": compute_device()}
            self.model = weights.reading_as_text(SentenceTransformer(location, **safe))
        self._at_once = AtOnce(_ENCODED_AT_ONCE, "texts", "Take a smaller retriever.encoder.")
        self.dimension = int(self.model.get_embedding_dimension() or 0)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of passages, shape (texts, dimension), float16."""
        return np.asarray(self._encoded(self.model.encode_document, texts), dtype=np.float16)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of queries, shape (queries, dimension), float32."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return np.asarray(self._encoded(self.model.encode_query, texts), dtype=np.float32)

    def _encoded(self, encode: Callable[..., Any], texts: Sequence[str]) -> Any:
        settings = {"normalize_embeddings": True, "show_progress_bar": False}
        return self._at_once.run(lambda size: encode(list(texts), batch_size=size, **settings), len(texts))


class Dense:
    """Vectors on disk in float16, and a faiss index over them; scores are cosines.

    Args:
        folder: Written by `build_dense`.
        section: The recipe's.

    Raises:
        UserError: The index was built with another encoder than the recipe's.
    """

    def __init__(self, folder: Path, section: RetrieverSection) -> None:
        import faiss

        built_with = read_json(folder / "dense.json")["encoder"]
        if built_with != section.encoder:
            raise UserError(
                f"{folder}: built with retriever.encoder '{built_with}', the recipe says '{section.encoder}'. "
                "Run the recipe again."
            )
        self.encoder = Encoder(section.encoder)
        self.analysis = Analysis()  # for marking words: vectors know none
        self.vectors = _vectors(folder, self.encoder)
        self.index = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP)

    def search(self, queries: Sequence[str], k: int, allowed: np.ndarray | None = None) -> list[Hits]:
        """The `k` passages whose vectors are nearest to each query's (of the `allowed`: in all clusters), ties by position."""
        if not queries or not k:
            return [Hits.none() for _ in queries]
        among = None if allowed is None else self._among(allowed)
        scores, positions = self.index.search(self.encoder.queries(queries), min(k, len(self.vectors)), params=among)
        return [Hits.ordered(row[row >= 0], own[row >= 0]) for row, own in zip(positions, scores, strict=True)]

    def _among(self, allowed: np.ndarray) -> Any:
        import faiss

        make: Any = faiss
        selector = make.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if isinstance(self.index, faiss.IndexIVF):
            return make.SearchParametersIVF(sel=selector, nprobe=self.index.nlist)
        return make.SearchParameters(sel=selector)

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Cosines of given passages for each query."""
        vectors = self.encoder.queries(queries)
        return [
            self.vectors[np.asarray(own, np.int64)].astype(np.float32) @ vector
            for vector, own in zip(vectors, positions, strict=True)
        ]


def build_dense(texts: Sequence[str], section: RetrieverSection, folder: Path, earlier: Earlier | None = None) -> None:
    """Encode texts and index their vectors; those that an earlier attempt or an earlier index has are not encoded again. All
    processes encode, where they call this together."""
    encoder = Encoder(section.encoder, online=earlier is None)
    led(lambda some: list(encoder.documents(some)), partial(_build, texts, section, folder, earlier, encoder))


def _build(
    texts: Sequence[str],
    section: RetrieverSection,
    folder: Path,
    earlier: Earlier | None,
    encoder: Encoder,
    documents: Compute[str, np.ndarray],
) -> None:
    import faiss

    path = folder / "vectors.f16"
    if earlier is not None and not path.exists():
        kept = path.with_suffix(".partial")
        _vectors(earlier.folder, encoder)[earlier.kept].tofile(kept)
        kept.rename(path)
    _encode(texts, documents, encoder.dimension, path, len(earlier.kept) if earlier else 0)
    faiss.write_index(_faiss_index(_vectors(folder, encoder)), str(folder / "vectors.faiss"))
    write_json(folder / "dense.json", {"encoder": section.encoder, "size": len(texts)})


def _vectors(folder: Path, encoder: Encoder) -> np.ndarray:
    return np.memmap(folder / "vectors.f16", dtype=np.float16, mode="r").reshape(-1, encoder.dimension)


def _encode(texts: Sequence[str], documents: Compute[str, np.ndarray], dimension: int, path: Path, first: int) -> None:
    """Append the vectors that are missing, by whole blocks behind the `first` ones, which are there."""
    row = 2 * dimension
    with open(path, "ab") as file, progress("encode passages", len(texts), "passages") as advance:
        there = file.tell() // row
        done = len(texts) if there >= len(texts) else first + (there - first) // _BLOCK * _BLOCK
        file.truncate(done * row)
        advance(done)
        for begin in range(done, len(texts), _BLOCK):
            vectors = np.stack(documents(texts[begin : begin + _BLOCK]))
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())
            advance(len(vectors))


def _faiss_index(vectors: np.ndarray) -> Any:
    """Flat in float16 up to a size, in clusters (IVF) above it."""
    import faiss

    count, dimension = vectors.shape
    kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index: Any
    if count <= _EXACT:
        index = faiss.IndexScalarQuantizer(dimension, kind, metric)
    else:
        clusters = int(4 * count**0.5)
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(dimension), dimension, clusters, kind, metric)
        sample = np.linspace(0, count - 1, min(count, 64 * clusters)).astype(np.int64)
        index.train(vectors[sample].astype(np.float32))
        index.nprobe = max(1, int(clusters * _PROBED))
    for begin in range(0, count, _BLOCK):
        index.add(vectors[begin : begin + _BLOCK].astype(np.float32))
    return index
