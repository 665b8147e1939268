"""What every reader gives: documents, and a note of what had to be left out."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from kard.data.metadata import Metadata
from kard.data.textfile import PACKED, cleaned
from kard.errors import UserError
from kard.progress import say


@dataclass(frozen=True)
class Document:
    """A text before it is cut.

    Attributes:
        id: Unique in the knowledge base.
        title: May be empty.
        text: All of it.
        source: File, and line, row or page where the file holds many documents.
        places: Offsets in the text, rising, with what begins there (``page 3``), so that a passage can be found again.
        metadata: Flat values by key, see `kard.data.metadata`.
    """

    id: str
    title: str
    text: str
    source: str
    places: tuple[tuple[int, str], ...] = ()
    metadata: Metadata = field(default_factory=dict)

    def source_at(self, offset: int) -> str:
        """The source, with the place that holds the character at `offset`."""
        number = bisect_right(self.places, offset, key=lambda place: place[0]) - 1
        return f"{self.source}, {self.places[number][1]}" if number >= 0 else self.source


@dataclass
class LeftOut:
    """What is not in the knowledge base, and why; `rows` are written beside the passages."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, source: str, detail: str = "", count: int = 1, **more: Any) -> None:
        """Note one thing, or so many of a file; `reason` is what it is counted as."""
        self.rows.append({"reason": reason, "source": source, "detail": detail, **more})
        self.counts[reason] += count

    @property
    def first(self) -> dict[str, str]:
        """For each reason, the first thing that was left out for it."""
        rows = {row["reason"]: (row["source"], row["detail"]) for row in reversed(self.rows)}
        return {reason: said if source in said else f"{source} ({said})" for reason, (source, said) in rows.items()}


Parts = Iterator[tuple[str, str]]  # texts, and where they stand


class Content(NamedTuple):
    """What a file of one document holds."""

    title: str
    parts: Parts
    metadata: Metadata = MappingProxyType({})


Read = Callable[[Path, LeftOut], Iterable[Document]]


def from_parts(
    identity: str, title: str, source: str, parts: Parts, metadata: Metadata = MappingProxyType({})
) -> Document:
    """A document of texts and the places where they stand, in their order."""
    kept = [(text, place) for text, place in parts if text.strip()]
    places, offset = [], 0
    for text, place in kept:
        places.append((offset, place))
        offset += len(text) + 1
    return Document(identity, title, "\n".join(text for text, _ in kept), source, tuple(places), metadata)


def read_each(paths: list[Path], read: Read, left_out: LeftOut) -> Iterator[Document]:
    """Documents of all files; one that cannot be read is noted by name, and what was read of it stays.

    Raises:
        UserError: A file cannot be read, and it is the only one.
    """
    for path in paths:
        try:
            for document in read(path, left_out):
                if document.text.strip():
                    yield document
                else:
                    left_out.add("empty", document.source, "no text in it")
        except Exception as error:  # a converter may raise anything on a damaged file
            said = str(error) if isinstance(error, UserError) else f"{path}: cannot be read ({_named(error)})."
            if len(paths) == 1:
                raise UserError(said if isinstance(error, UserError) else f"{said} Mend or remove the file.") from error
            say(f"  left out: {said}")
            left_out.add("broken", str(path), said)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def files_below(path: Path, suffixes: tuple[str, ...], left_out: LeftOut) -> list[Path]:
    """The file, or the files with one of the suffixes in a folder and below it; others are noted.

    Raises:
        UserError: There is none.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(
            f"{path}: no such file (knowledge.path). Mend the path; a relative one is meant from the recipe."
        )
    every = list(walk(path, left_out))
    shown = ", ".join(suffix for suffix in suffixes if not suffix.endswith(PACKED))
    fitting = [item for item in every if item.name.lower().endswith(suffixes)]
    if not fitting:
        why = f" Left out: {_some(left_out)}." if left_out.rows else ""
        raise UserError(f"{path}: no file ends in {shown}.{why} Mend knowledge.path or knowledge.kind.")
    for item in every:
        if not item.name.lower().endswith(suffixes):
            left_out.add("other_file", str(item), f"does not end in {shown}")
    return fitting


def _some(left_out: LeftOut) -> str:
    return "; ".join(f"{row['source']} ({row['detail']})" for row in left_out.rows[:3])


def walk(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Files of a folder and below it, sorted; hidden ones, links that lead out of it, and what is no file are noted."""
    inside = folder.resolve()

    def below(place: Path) -> Iterator[Path]:
        for item in sorted(place.iterdir()):
            if why := _unfit(item, inside):
                left_out.add(why[0], shown_name(item), why[1])
            elif item.is_dir():
                yield from below(item)
            else:
                yield item

    yield from below(folder)


def _unfit(item: Path, inside: Path) -> tuple[str, str] | None:
    """Why a file or folder is not looked at: what it is counted as, and in words."""
    if item.name.startswith((".", "~$")):
        return "hidden", "is hidden, or a program's temporary file"
    if shown_name(item) != str(item):
        return "file_name", "its name is not UTF-8: rename it"
    if item.is_symlink():
        if not item.exists():
            return "link", "is a link to nothing"
        if item.is_dir() or not item.resolve().is_relative_to(inside):
            return "link", f"is a link to {shown_name(item.resolve())}: name that, or copy it here"
    if not (item.is_dir() or item.is_file()):
        return "special_file", "is no regular file"
    return None


def shown_name(path: Path) -> str:
    """A path as text, bytes that are no UTF-8 as ``\\xe9``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def cleaned_document(document: Document, found: Counter[str]) -> Document:
    """A document without NUL and half surrogate pairs, which `found` counts; its places stay where they are."""
    identity, title, text = (cleaned(value, found) for value in (document.id, document.title, document.text))
    document = replace(document, metadata=cleaned(document.metadata, found))
    if (identity, title, text) == (document.id, document.title, document.text):
        return document
    places = tuple((offset - document.text.count("\0", 0, offset), place) for offset, place in document.places)
    return replace(document, id=identity, title=title, text=text, places=places)
