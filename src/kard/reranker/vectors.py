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
from kard.data.passage import digests_of
from kard.errors import UserError
from kard.progress import progress

BATCH = 256
_ROW = 24  # bytes of a row of places
_ASIDE, _ASIDE_SHARE = 4096, 16  # most vectors whose places are not sorted yet: this number, or a sixteenth of all

Encode = Callable[[list[str]], Sequence[np.ndarray]]
Format = Literal["fp16", "int8"]


class PassageVectors:
    """Vectors of the tokens of passages, appended as they are asked for.

    ``tokens.fp16`` (or ``tokens.int8``: see `packed`) holds the vectors one after the other, ``places.i64`` rows of (digest of
    the text, first token, tokens): a text that another version of the documents has as well is not encoded again. A batch
    counts once its places are written, so a killed process loses one batch at most. What is still to be encoded is written
    down first (``plan.json``): after a kill the same batches are encoded again, so that the vectors are the same to the bit.
    Writing holds a lock, so that several processes can share a folder; one that has every vector may be read-only.

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
        self.at_once = BATCH
        """Passages that `encode` is given; more, where several processes share them."""
        self.form = form
        self.dtype = np.dtype(np.float16 if form == "fp16" else np.int8)
        self.columns = dimension if form == "fp16" else dimension + 2
        self.path = folder / f"tokens.{form}"
        self._digests = digests_of(texts)
        self._known = np.empty(0, dtype=np.uint64)  # sorted digests of the texts that have vectors
        self._spans = np.empty((0, 2), dtype=np.int64)  # first token and tokens of each
        self._recent: dict[int, tuple[int, int]] = {}  # the same of those that came since these were sorted
        self._read = self._tokens = 0  # rows of places so far, and vectors
        self._read_places()

    @property
    def has(self) -> np.ndarray:
        """Which positions are there, a boolean a passage."""
        return self._has(np.arange(len(self.texts)))

    def _has(self, positions: np.ndarray) -> np.ndarray:
        return self._spans_of(positions)[:, 0] >= 0

    def _spans_of(self, positions: np.ndarray) -> np.ndarray:
        """First token and tokens of each position, −1 of one that is not there."""
        digests = self._digests[positions]
        spans = np.full((len(digests), 2), -1, dtype=np.int64)
        if len(self._known):
            places = np.minimum(np.searchsorted(self._known, digests), len(self._known) - 1)
            there = self._known[places] == digests
            spans[there] = self._spans[places[there]]
        for row in np.flatnonzero(spans[:, 0] < 0).tolist() if self._recent else ():
            spans[row] = self._recent.get(int(digests[row]), (-1, -1))
        return spans

    def ensure(self, positions: Sequence[int]) -> None:
        """Encode the passages at `positions` that are not there yet.

        Raises:
            UserError: The folder cannot be written.
        """
        wanted = np.unique(np.asarray(positions, dtype=np.int64))
        if self._has(wanted).all():
            return
        above = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not os.access(above, os.W_OK):
            raise UserError(f"{self.folder}: passage vectors are missing, and it cannot be written. Make it writable.")
        with locked(self.folder, wait=True):
            self._read_places()
            self._cut_torn_end()
            plan = self.folder / "plan.json"
            self._encode(self._planned(plan))
            missing = wanted[~self._has(wanted)]
            missing = missing[np.sort(np.unique(self._digests[missing], return_index=True)[1])]
            if len(missing):
                write_json(plan, [[int(position), int(self._digests[position])] for position in missing])
                self._encode(missing.tolist())
            plan.unlink(missing_ok=True)

    def _planned(self, plan: Path) -> list[int]:
        """What a killed process wanted, unless it had other passages."""
        rows = read_json(plan) if plan.exists() else []
        same = all(place < len(self.texts) and int(self._digests[place]) == digest for place, digest in rows)
        return [place for place, _ in rows] if same else []

    @property
    def bytes_per_passage(self) -> float:
        """On disk, over the texts that are there."""
        return float(self._tokens) * self.columns * self.dtype.itemsize / max(1, len(self._known) + len(self._recent))

    def get(self, positions: Sequence[int]) -> list[np.ndarray]:
        """Token vectors of passages that are there, (tokens, dimension) each, float16 (float32 from int8)."""
        return [rows if self.form == "fp16" else unpacked(np.array(rows)) for rows in self._kept(positions)]

    def joined(self, positions: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The same one after the other in float32, (all tokens, dimension), and where each begins, (passages,)."""
        kept = self._kept(positions)
        return unpacked(np.concatenate(kept)), np.cumsum([0, *map(len, kept[:-1])])

    def _kept(self, positions: Sequence[int]) -> list[np.ndarray]:
        spans = self._spans_of(np.asarray(positions, dtype=np.int64))
        return [self._rows[first : first + tokens] for first, tokens in spans.tolist()]

    def _encode(self, positions: Sequence[int]) -> None:
        order = sorted(positions, key=lambda position: (len(self.texts[position]), position))
        there = self._has(np.asarray(order, dtype=np.int64))
        with progress("passage vectors", len(order), "passages") as advance, disk_full_explained(self.folder):
            for begin in range(0, len(order), self.at_once):
                batch = order[begin : begin + self.at_once]
                if not there[begin : begin + self.at_once].all():
                    self._append(batch, self.encode([self.texts[position] for position in batch]))
                advance(len(batch))
        self._read_places()

    def _append(self, positions: list[int], vectors: Sequence[np.ndarray]) -> None:
        places = np.empty((len(positions), 3), dtype=np.int64)
        with open(self.path, "ab") as file:
            first = file.tell() // (self.columns * self.dtype.itemsize)
            for row, (position, tokens) in enumerate(zip(positions, vectors, strict=True)):
                file.write(packed(tokens, self.form).tobytes())
                places[row] = (self._digests[position].view(np.int64), first, len(tokens))
                first += len(tokens)
            file.flush()
            os.fsync(file.fileno())
        with open(self.folder / "places.i64", "ab") as file:
            file.write(places.tobytes())

    def _read_places(self) -> None:
        """Take in the whole rows that came since the last look, also by other processes."""
        path = self.folder / "places.i64"
        numbers = (
            np.fromfile(path, dtype=np.int64, offset=_ROW * self._read) if path.exists() else np.empty(0, np.int64)
        )
        rows = numbers[: len(numbers) // 3 * 3].reshape(-1, 3)
        if rows[:, 1:].min(initial=0) < 0 or (rows[:, 1] + rows[:, 2]).max(initial=0) > self._on_disk():
            raise UserError(f"{path}: is damaged. Remove {self.folder}: it is made again.")
        self._take_in(rows)
        self._read += len(rows)
        self._tokens = max(self._tokens, int((rows[:, 1] + rows[:, 2]).max(initial=0)))
        shape = (self._tokens, self.columns)
        self._rows: np.ndarray = (
            np.memmap(self.path, dtype=self.dtype, mode="r", shape=shape)
            if self._tokens
            else np.zeros(shape, dtype=self.dtype)
        )

    def _take_in(self, rows: np.ndarray) -> None:
        """Learn where vectors are. Few are kept aside: sorting all anew for each of them would take longer the more there are."""
        digests = np.ascontiguousarray(rows[:, 0]).view(np.uint64)
        if len(self._recent) + len(rows) <= max(_ASIDE, len(self._known) // _ASIDE_SHARE):
            for digest, span in zip(digests.tolist(), rows[:, 1:].tolist(), strict=True):
                self._recent.setdefault(digest, (span[0], span[1]))
            return
        aside = np.array(list(self._recent), dtype=np.uint64)
        spans = [self._spans, np.array(list(self._recent.values()), dtype=np.int64).reshape(-1, 2), rows[:, 1:]]
        self._known, order = np.unique(np.concatenate([self._known, aside, digests]), return_index=True)
        self._spans, self._recent = np.concatenate(spans)[order], {}

    def _on_disk(self) -> int:
        """Vectors in the file, whole ones."""
        size = self.path.stat().st_size if self.path.exists() else 0
        return size // (self.columns * self.dtype.itemsize)

    def _cut_torn_end(self) -> None:
        """Cut off what a killed process left half written: rows, and vectors without a row."""
        places, tokens = _ROW * self._read, self._tokens * self.columns * self.dtype.itemsize
        for path, size in ((self.folder / "places.i64", places), (self.path, tokens)):
            if path.exists():
                os.truncate(path, size)


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


def vectors_folder(run: Path, model: object, passage_tokens: int, form: Format) -> Path:
    """Where the vectors of a run's passages by an encoder lie; another encoder has another folder."""
    return run / "vectors" / f"{hash_of([model, passage_tokens, 'by text'])[:16]}-{form}"
