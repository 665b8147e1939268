"""Token vectors of passages on disk: computed once, shared by training, evaluation and answering."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from kard.artifacts import disk_full_explained, hash_of, read_json, write_json
from kard.progress import progress

BATCH = 64

Encode = Callable[[list[str]], list[np.ndarray]]


class PassageVectors:
    """Vectors of the tokens of passages, in float16, appended as they are asked for.

    ``tokens.f16`` holds the vectors one after the other, ``places.i64`` rows of (position, first token, tokens). A batch counts
    once its places are written, so a killed process loses one batch at most. What is still to be encoded is written down
    first (``plan.json``): after a kill the same batches are encoded again, so that the vectors are the same to the bit.

    Args:
        folder: Made if it is not there.
        texts: All passages' full texts; a position is an index into it.
        dimension: Length of a vector.
        encode: Gives a passage's token vectors, (tokens, dimension) each, for a batch of texts.
    """

    def __init__(self, folder: Path, texts: Sequence[str], dimension: int, encode: Encode) -> None:
        self.folder = folder
        self.texts = texts
        self.dimension = dimension
        self.encode = encode
        self.first = np.full(len(texts), -1, dtype=np.int64)
        self.length = np.zeros(len(texts), dtype=np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        self._read_places()

    @property
    def has(self) -> np.ndarray:
        """Which positions are there, a boolean a passage."""
        return self.first >= 0

    def ensure(self, positions: Sequence[int]) -> None:
        """Encode the passages at `positions` that are not there yet."""
        plan = self.folder / "plan.json"
        if plan.exists():
            self._encode(read_json(plan))
        missing = [
            int(position) for position in np.unique(np.asarray(positions, dtype=np.int64)) if self.first[position] < 0
        ]
        if missing:
            write_json(plan, missing)
            self._encode(missing)
        plan.unlink(missing_ok=True)

    def get(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Token vectors (tokens, dimension) in float16 of passages that are there."""
        rows = self._rows
        return [rows[self.first[p] : self.first[p] + self.length[p]] for p in positions]

    def _encode(self, positions: list[int]) -> None:
        order = sorted(positions, key=lambda position: (len(self.texts[position]), position))
        with progress("passage vectors", len(order), "passages") as advance, disk_full_explained(self.folder):
            for begin in range(0, len(order), BATCH):
                batch = order[begin : begin + BATCH]
                if any(self.first[position] < 0 for position in batch):
                    self._append(batch, self.encode([self.texts[position] for position in batch]))
                advance(len(batch))
        self._map()

    def _append(self, positions: list[int], vectors: list[np.ndarray]) -> None:
        places = np.empty((len(positions), 3), dtype=np.int64)
        with open(self.folder / "tokens.f16", "ab") as file:
            first = file.tell() // (2 * self.dimension)
            for row, (position, tokens) in enumerate(zip(positions, vectors, strict=True)):
                file.write(np.ascontiguousarray(tokens, dtype=np.float16).tobytes())
                places[row] = (position, first, len(tokens))
                first += len(tokens)
            file.flush()
            os.fsync(file.fileno())
        with open(self.folder / "places.i64", "ab") as file:
            file.write(places.tobytes())
        self._take(places)

    def _read_places(self) -> None:
        path = self.folder / "places.i64"
        places = np.zeros((0, 3), dtype=np.int64)
        if path.exists():
            whole = path.stat().st_size // 24 * 24
            os.truncate(path, whole)
            places = np.fromfile(path, dtype=np.int64).reshape(-1, 3)
        tokens = int((places[:, 1] + places[:, 2]).max(initial=0))
        vectors = self.folder / "tokens.f16"
        if vectors.exists():  # cut off what was written without its place
            os.truncate(vectors, tokens * 2 * self.dimension)
        self._take(places)
        self._map()

    def _take(self, places: np.ndarray) -> None:
        self.first[places[:, 0]] = places[:, 1]
        self.length[places[:, 0]] = places[:, 2]

    def _map(self) -> None:
        path = self.folder / "tokens.f16"
        empty = not path.exists() or path.stat().st_size == 0
        self._rows = (
            np.zeros((0, self.dimension), dtype=np.float16)
            if empty
            else np.memmap(path, dtype=np.float16, mode="r").reshape(-1, self.dimension)
        )


def vectors_folder(run: Path, model: object, passage_tokens: int, knowledge_key: str) -> Path:
    """Where the vectors of a run's passages by an encoder lie; another encoder or knowledge base has another folder."""
    return run / "vectors" / hash_of([model, passage_tokens, knowledge_key])[:16]
