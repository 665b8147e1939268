"""Token vectors of passages on disk: computed once, shared by training, evaluation and answering."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kard.artifacts.files import hash_of, read_json, write_json
from kard.artifacts.folders import disk_full_explained, locked
from kard.errors import UserError
from kard.progress import progress

BATCH = 256
_ROW = 24  # bytes of a row of places

Encode = Callable[[list[str]], list[np.ndarray]]
Format = Literal["fp16", "int8"]


class PassageVectors:
    """Vectors of the tokens of passages, appended as they are asked for.

    ``tokens.fp16`` (or ``tokens.int8``: see `packed`) holds the vectors one after the other, ``places.i64`` rows of (position,
    first token, tokens). A batch counts once its places are written, so a killed process loses one batch at most. What is
    still to be encoded is written down first (``plan.json``): after a kill the same batches are encoded again, so that the
    vectors are the same to the bit. Writing holds a lock, so that several processes can share a folder; one that has every
    vector may be read-only.

    Args:
        folder: Made if it is not there.
        texts: All passages' full texts; a position is an index into it.
        dimension: Length of a vector.
        encode: Gives a passage's token vectors, (tokens, dimension) each, for a batch of texts.
        form: How numbers are kept.
    """

    def __init__(
        self, folder: Path, texts: Sequence[str], dimension: int, encode: Encode, form: Format = "fp16"
    ) -> None:
        self.folder = folder
        self.texts = texts
        self.dimension = dimension
        self.encode = encode
        self.form = form
        self.dtype = np.dtype(np.float16 if form == "fp16" else np.int8)
        self.columns = dimension if form == "fp16" else dimension + 2
        self.path = folder / f"tokens.{form}"
        self.first = np.full(len(texts), -1, dtype=np.int64)
        self.length = np.zeros(len(texts), dtype=np.int64)
        self._known = self._tokens = 0  # rows of places, and vectors: a call must not look through what millions have
        self._read_places()
        self._map()

    @property
    def has(self) -> np.ndarray:
        """Which positions are there, a boolean a passage."""
        return self.first >= 0

    def ensure(self, positions: Sequence[int]) -> None:
        """Encode the passages at `positions` that are not there yet.

        Raises:
            UserError: The folder cannot be written.
        """
        wanted = np.unique(np.asarray(positions, dtype=np.int64))
        if (self.first[wanted] >= 0).all():
            return
        above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not os.access(above, os.W_OK):
            raise UserError(f"{self.folder}: passage vectors are missing, and it cannot be written. Make it writable.")
        with locked(self.folder, wait=True):
            self._read_places()
            self._cut_torn_end()
            plan = self.folder / "plan.json"
            if plan.exists():
                self._encode(read_json(plan))
            missing = [int(position) for position in wanted if self.first[position] < 0]
            if missing:
                write_json(plan, missing)
                self._encode(missing)
            plan.unlink(missing_ok=True)
        self._map()

    @property
    def bytes_per_passage(self) -> float:
        """On disk, over the passages that are there."""
        return float(self.length.sum()) * self.columns * self.dtype.itemsize / max(1, int(self.has.sum()))

    def get(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Token vectors of passages that are there, (tokens, dimension) each, float16 (float32 from int8)."""
        return [rows if self.form == "fp16" else unpacked(np.array(rows)) for rows in self._kept(positions)]

    def joined(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The same one after the other in float32, (all tokens, dimension), and where each begins, (passages,)."""
        kept = self._kept(positions)
        return unpacked(np.concatenate(kept)), np.cumsum([0, *map(len, kept[:-1])])

    def _kept(self, positions: Sequence[int]) -> list[np.ndarray]:
        return [self._rows[self.first[p] : self.first[p] + self.length[p]] for p in positions]

    def _encode(self, positions: list[int]) -> None:
        order = sorted(positions, key=lambda position: (len(self.texts[position]), position))
        with progress("passage vectors", len(order), "passages") as advance, disk_full_explained(self.folder):
            for begin in range(0, len(order), BATCH):
                batch = order[begin : begin + BATCH]
                if any(self.first[position] < 0 for position in batch):
                    self._append(batch, self.encode([self.texts[position] for position in batch]))
                advance(len(batch))

    def _append(self, positions: list[int], vectors: list[np.ndarray]) -> None:
        places = np.empty((len(positions), 3), dtype=np.int64)
        with open(self.path, "ab") as file:
            first = file.tell() // (self.columns * self.dtype.itemsize)
            for row, (position, tokens) in enumerate(zip(positions, vectors, strict=True)):
                file.write(packed(tokens, self.form).tobytes())
                places[row] = (position, first, len(tokens))
                first += len(tokens)
            file.flush()
            os.fsync(file.fileno())
        with open(self.folder / "places.i64", "ab") as file:
            file.write(places.tobytes())
        self._take(places)

    def _read_places(self) -> None:
        """Take in the whole rows that came since the last look, also by other processes."""
        path = self.folder / "places.i64"
        if path.exists():
            numbers = np.fromfile(path, dtype=np.int64, offset=_ROW * self._known)
            places = numbers[: len(numbers) // 3 * 3].reshape(-1, 3)
            if places.min(initial=0) < 0 or places[:, 0].max(initial=0) >= max(1, len(self.texts)):
                raise UserError(f"{path}: is damaged. Remove {self.folder}: it is made again.")
            self._take(places)

    def _cut_torn_end(self) -> None:
        """Cut off what a killed process left half written: rows, and vectors without a row."""
        places, tokens = _ROW * self._known, self._tokens * self.columns * self.dtype.itemsize
        for path, size in ((self.folder / "places.i64", places), (self.path, tokens)):
            if path.exists():
                os.truncate(path, size)

    def _take(self, places: np.ndarray) -> None:
        self.first[places[:, 0]] = places[:, 1]
        self.length[places[:, 0]] = places[:, 2]
        self._known += len(places)
        self._tokens = max(self._tokens, int((places[:, 1] + places[:, 2]).max(initial=0)))

    def _map(self) -> None:
        shape = (self._tokens, self.columns)
        if shape[0] and (
            not self.path.exists() or self.path.stat().st_size < shape[0] * shape[1] * self.dtype.itemsize
        ):
            raise UserError(f"{self.path}: shorter than places.i64 says. Remove {self.folder}: it is made again.")
        self._rows: np.ndarray = (
            np.memmap(self.path, dtype=self.dtype, mode="r", shape=shape)
            if shape[0]
            else np.zeros(shape, dtype=self.dtype)
        )


def packed(tokens: np.ndarray, form: Format) -> np.ndarray:
    """Vectors (tokens, dimension) as they are kept.

    int8: each number as a share of its own vector's largest one, in 127 steps to each side; that largest number stands behind
    them in float16, as two more columns.
    """
    if form == "fp16":
        return np.ascontiguousarray(tokens, dtype=np.float16)
    wide = tokens.astype(np.float32)
    scale = (np.abs(wide).max(axis=1, keepdims=True) / 127).astype(np.float16)
    steps = np.round(wide / np.maximum(scale.astype(np.float32), 1e-7)).clip(-127, 127).astype(np.int8)
    return np.concatenate([steps, scale.view(np.int8)], axis=1)


def unpacked(rows: np.ndarray) -> np.ndarray:
    """What `packed` has made, as float32 (tokens, dimension); torch widens ten times as fast as numpy."""
    kept = torch.from_numpy(rows)
    if kept.dtype == torch.float16:
        return kept.float().numpy()
    scale = kept[:, -2:].contiguous().view(torch.float16)
    return kept[:, :-2].float().mul_(scale).numpy()


def vectors_folder(run: Path, model: object, passage_tokens: int, knowledge_key: str, form: Format) -> Path:
    """Where the vectors of a run's passages by an encoder lie; another encoder or knowledge base has another folder."""
    return run / "vectors" / f"{hash_of([model, passage_tokens, knowledge_key])[:16]}-{form}"
