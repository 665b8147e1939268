"""Passages on disk: as many as there are, read one at a time."""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np

from kard.artifacts.damage import damaged
from kard.artifacts.files import read_jsonl


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        id: Unique in the knowledge base; the document's id, with ``#2``, ``#3`` … for its later pieces.
        title: The document's title, may be empty.
        text: The words.
        document: Id of the document that it was cut from.
        source: File and line (or page, or article) that it came from.
    """

    id: str
    title: str
    text: str
    document: str
    source: str

    @property
    def full_text(self) -> str:
        """Title in front, as indexed, encoded and shown to the student."""
        return f"{self.title}. {self.text}" if self.title else self.text


class Passages(Sequence[Passage]):
    """Passages that `write_passages` wrote, in their order; nothing but where each line begins is kept in memory.

    Args:
        path: The JSONL file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size, starts = (file.stat().st_size if file.is_file() else 0 for file in (path, _starts_path(path)))
        if starts < 8 or starts % 8:
            raise damaged(_starts_path(path), f"is damaged ({starts:,} bytes)")
        self._starts = np.memmap(_starts_path(path), dtype=np.int64, mode="r")
        if self._starts[-1] != size:
            raise damaged(path, f"is damaged (expected {self._starts[-1]:,} bytes, found {size:,})")
        self._bytes: mmap.mmap | bytes = b""
        if size:
            with open(path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        try:
            return Passage(**json.loads(self._bytes[self._starts[place] : self._starts[place + 1]]))
        except (ValueError, TypeError) as error:
            raise damaged(self.path, f"is damaged (passage {place + 1:,}: {error})") from error

    def __iter__(self) -> Iterator[Passage]:
        return (self[place] for place in range(len(self)))

    def lines(self, begin: int, end: int) -> bytes:
        """The lines of passages, as they stand in the file."""
        return self._bytes[self._starts[begin] : self._starts[end]]

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each line."""
        return np.diff(self._starts)

    @property
    def texts(self) -> Sequence[str]:
        """The passages' full texts, read when they are asked for."""
        return FullTexts(self)


@dataclass(frozen=True)
class FullTexts(Sequence[str]):
    """Titles and texts of passages."""

    passages: Passages

    def __len__(self) -> int:
        return len(self.passages)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        found = self.passages[index]
        return found.full_text if isinstance(found, Passage) else [passage.full_text for passage in found]


def digests_of(texts: Sequence[str]) -> np.ndarray:
    """A 64-bit digest a text, by which vectors of unchanged texts are found again; those of passages lie beside them."""
    if isinstance(texts, FullTexts):
        return _digests(texts.passages.path)[:, 2]
    return digests(texts)


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write passages as JSONL, and beside it where each line begins and digests of names and texts; returns how many."""
    place = count = 0
    with open(path, "wb") as file, open(_starts_path(path), "wb") as starts, open(_digests_path(path), "wb") as names:
        starts.write(bytes(8))
        for passage in passages:
            count += 1
            line = json.dumps(asdict(passage), ensure_ascii=False).encode("utf-8") + b"\n"
            place += file.write(line)
            starts.write(place.to_bytes(8, "little"))
            names.write(b"".join(map(_digest, (passage.id, passage.document, passage.full_text))))
    return count


def digests(names: Iterable[str]) -> np.ndarray:
    """Digests of names, or of texts."""
    return np.frombuffer(b"".join(map(_digest, names)), dtype="<u8")


def _digest(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def names_of(path: Path) -> np.ndarray:
    """Digests of the passages' ids and of their documents' ids, shape (passages, 2)."""
    return _digests(path)[:, :2]


def _digests(path: Path) -> np.ndarray:
    """Digests of each passage's id, of its document's and of its full text."""
    found = _digests_path(path)
    size = found.stat().st_size if found.is_file() else 1
    if size % 24:
        raise damaged(found, "is damaged" if size > 1 else "is missing")
    return np.memmap(found, dtype="<u8", mode="r").reshape(-1, 3) if size else np.empty((0, 3), dtype="<u8")


def read_passages(path: Path) -> Passages:
    """Passages that `write_passages` wrote; their order is the order of the index."""
    return Passages(path)


def positions_of(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Positions of passages by their own id and by their document's; one that was left out as a duplicate is its original.

    Args:
        folder: The knowledge stage's.
        names: Those that are wanted; ``NAME#1`` is the first passage of a document alone.
    """
    found: dict[str, list[int]] = {name: [] for name in names}
    if not found:
        return {}
    originals: dict[str, list[str]] = {}
    left_out = folder / "left_out.jsonl"
    for row in read_jsonl(left_out) if left_out.exists() else ():
        if "of" in row:
            for name in {row["id"], row["document"]} & found.keys():
                originals.setdefault(row["of"], []).append(name)
    firsts = {name.removesuffix("#1"): name for name in found if name.endswith("#1")}
    passages = read_passages(folder / "passages.jsonl")
    wanted = digests((*found, *originals, *firsts))
    for position in np.flatnonzero(np.isin(names_of(passages.path), wanted).any(axis=1)).tolist():
        passage = passages[position]
        first = {firsts[passage.id]} if passage.id in firsts else set[str]()
        for name in ({passage.id, passage.document} & found.keys()).union(originals.get(passage.id, ()), first):
            found[name].append(position)
    return {name: positions for name, positions in found.items() if positions}


def merge_passages(path: Path, parts: Sequence[tuple[Passages, np.ndarray]]) -> None:
    """Write passages of other files, one file behind the other, by rising positions and as they stand there."""
    with open(path, "wb") as file:
        for passages, positions in parts:
            breaks = np.flatnonzero(np.diff(positions) != 1) + 1
            for stretch in np.split(positions, breaks) if len(positions) else ():
                file.write(passages.lines(int(stretch[0]), int(stretch[-1]) + 1))
    sizes = np.concatenate([passages.sizes[positions] for passages, positions in parts])
    np.concatenate(([0], np.cumsum(sizes))).astype(np.int64).tofile(_starts_path(path))
    digests = [_digests(passages.path)[positions] for passages, positions in parts]
    np.concatenate(digests).tofile(_digests_path(path))


def replace_passages(path: Path, passages: Iterable[Passage]) -> None:
    """Write passages over those at `path`, which may be read meanwhile."""
    whole = path.with_name("kept.jsonl")
    write_passages(whole, passages)
    for suffix in (".digests.u64", ".starts.i64", ".jsonl"):
        whole.with_suffix(suffix).replace(path.with_suffix(suffix))


def _starts_path(path: Path) -> Path:
    return path.with_suffix(".starts.i64")


def _digests_path(path: Path) -> Path:
    return path.with_suffix(".digests.u64")
