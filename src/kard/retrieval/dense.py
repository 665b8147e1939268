"""Dense retrieval: vectors of passages by sentence-transformers, searched by faiss."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts import read_json, write_json
from kard.errors import UserError
from kard.machine.processes import compute_device
from kard.progress import progress
from kard.recipe import RetrieverSection
from kard.retrieval.analysis import Analysis
from kard.retrieval.retriever import Hits

_BLOCK = 2_048
# Share of the clusters that a query looks into, where not all vectors are compared.
_PROBED = 1 / 8


class Encoder:
    """A sentence-transformers model that turns texts and queries into vectors of length 1.

    Args:
        name: The recipe's value.
        online: Whether it may be fetched from the hub; only to build an index, which then finds it on this machine.
    """

    def __init__(self, name: str, online: bool = False) -> None:
        from sentence_transformers import SentenceTransformer

        from kard.models.weights import (
            guarded_modules,
            loading_explained,
            local_location,
            model_location,
            reading_as_text,
        )

        with loading_explained(name, "retriever.encoder"):
            location = (model_location if online else local_location)(name, "retriever.encoder")
            safe = {**guarded_modules(location), "device": compute_device()}
            self.model = reading_as_text(SentenceTransformer(location, **safe))
        self.dimension = int(self.model.get_embedding_dimension() or 0)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of passages, shape (texts, dimension), float16."""
        found = self.model.encode_document(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float16)

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of queries, shape (queries, dimension), float32."""
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        found = self.model.encode_query(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


class Dense:
    """Vectors on disk in float16, and a faiss index over them; scores are cosines.

    Args:
        folder: Written by `build`.
        encoder: The model that its vectors were made with.
    """

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        import faiss

        self.encoder = encoder
        self.analysis = Analysis()  # for marking words: vectors know none
        self.vectors = np.memmap(folder / "vectors.f16", dtype=np.float16, mode="r").reshape(-1, encoder.dimension)
        self.index = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP)

    @classmethod
    def build(cls, texts: Sequence[str], section: RetrieverSection, folder: Path) -> Dense:
        """Encode texts and index their vectors; texts that an earlier attempt encoded are not encoded again."""
        import faiss

        folder.mkdir(parents=True, exist_ok=True)
        encoder = Encoder(section.encoder, online=True)
        _encode(texts, encoder, folder / "vectors.f16")
        vectors = np.memmap(folder / "vectors.f16", dtype=np.float16, mode="r").reshape(-1, encoder.dimension)
        faiss.write_index(_faiss_index(vectors, section.exact_vectors), str(folder / "vectors.faiss"))
        write_json(folder / "dense.json", {"encoder": section.encoder, "size": len(vectors)})
        return cls(folder, encoder)

    @classmethod
    def load(cls, folder: Path, section: RetrieverSection) -> Dense:
        """Open an index.

        Raises:
            UserError: It was built with another encoder than the recipe's.
        """
        built_with = read_json(folder / "dense.json")["encoder"]
        if built_with != section.encoder:
            raise UserError(
                f"{folder}: built with retriever.encoder '{built_with}', the recipe says '{section.encoder}'. "
                "Run the recipe again."
            )
        return cls(folder, Encoder(section.encoder))

    def search(self, queries: Sequence[str], k: int) -> list[Hits]:
        """The `k` passages whose vectors are nearest to each query's, equal scores by position."""
        if not queries or not k:
            return [Hits(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        scores, positions = self.index.search(self.encoder.queries(queries), min(k, len(self.vectors)))
        return [_sorted(row[row >= 0], own[row >= 0]) for row, own in zip(positions, scores, strict=True)]

    def scores(self, queries: Sequence[str], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Cosines of given passages for each query."""
        vectors = self.encoder.queries(queries)
        return [
            self.vectors[np.asarray(own, np.int64)].astype(np.float32) @ vector
            for vector, own in zip(vectors, positions, strict=True)
        ]


def _sorted(positions: np.ndarray, scores: np.ndarray) -> Hits:
    order = np.lexsort((positions, -scores))
    return Hits(positions[order], scores[order])


def _encode(texts: Sequence[str], encoder: Encoder, path: Path) -> None:
    row = 2 * encoder.dimension
    with open(path, "ab") as file, progress("encode passages", len(texts), "passages") as advance:
        done = file.tell() // row // _BLOCK * _BLOCK if file.tell() < len(texts) * row else len(texts)
        file.truncate(done * row)
        advance(done)
        for begin in range(done, len(texts), _BLOCK):
            vectors = encoder.documents(texts[begin : begin + _BLOCK])
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())
            advance(len(vectors))


def _faiss_index(vectors: np.ndarray, exact_up_to: int) -> Any:
    """Flat in float16 up to a size, in clusters (IVF) above it."""
    import faiss

    count, dimension = vectors.shape
    index: Any
    if count <= exact_up_to:
        index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        clusters = int(4 * count**0.5)
        quantizer = faiss.IndexFlatIP(dimension)
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, dimension, clusters, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        sample = np.linspace(0, count - 1, min(count, 64 * clusters)).astype(np.int64)
        index.train(vectors[sample].astype(np.float32))
        index.nprobe = max(1, int(clusters * _PROBED))
    for block in _blocks(vectors):
        index.add(block.astype(np.float32))
    return index


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    yield from (vectors[begin : begin + _BLOCK] for begin in range(0, len(vectors), _BLOCK))
