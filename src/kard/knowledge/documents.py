"""What every reader gives: documents, and a note of what had to be left out."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kard.errors import UserError
from kard.progress import say
from kard.recipe import KnowledgeSection


@dataclass(frozen=True)
class Document:
    """A text before it is cut.

    Attributes:
        id: Unique in the knowledge base.
        title: May be empty.
        text: All of it.
        source: File, and line, row or page where the file holds many documents.
        places: Offsets in the text, rising, with what begins there (``page 3``), so that a passage can be found again.
    """

    id: str
    title: str
    text: str
    source: str
    places: tuple[tuple[int, str], ...] = ()

    def source_at(self, offset: int) -> str:
        """The source, with the place that holds the character at `offset`."""
        number = bisect_right(self.places, offset, key=lambda place: place[0]) - 1
        return f"{self.source}, {self.places[number][1]}" if number >= 0 else self.source


@dataclass
class LeftOut:
    """What is not in the knowledge base, and why; `rows` are written beside the passages."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, source: str, detail: str = "", **more: Any) -> None:
        """Note one thing; `reason` is what it is counted as."""
        self.rows.append({"reason": reason, "source": source, "detail": detail, **more})
        self.counts[reason] += 1


Read = Callable[[Path, LeftOut], Iterable[Document]]


def from_parts(identity: str, title: str, source: str, parts: Iterable[tuple[str, str]]) -> Document:
    """A document of texts and the places where they stand, in their order."""
    kept = [(text, place) for text, place in parts if text.strip()]
    places, offset = [], 0
    for text, place in kept:
        places.append((offset, place))
        offset += len(text) + 1
    return Document(identity, title, "\n".join(text for text, _ in kept), source, tuple(places))


def read_each(paths: list[Path], read: Read, section: KnowledgeSection, left_out: LeftOut) -> Iterator[Document]:
    """Documents of all files; one that cannot be read is noted by name, and what was read of it stays.

    Raises:
        UserError: A file cannot be read, and it is the only one, or ``knowledge.broken`` is ``stop``.
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
            if section.broken == "stop" or len(paths) == 1:
                raise UserError(said if isinstance(error, UserError) else f"{said} Mend or remove the file.") from error
            say(f"  left out: {said}")
            left_out.add("broken", str(path), said)


def wikivital_documents(described: bool = False) -> Iterator[Document]:
    """The article summaries of the extra `demo`; with their descriptions (which hold years of birth) where that is asked for."""
    from kard.questions.wikivital import read_articles
    from kard.questions.wikiyears import described_text

    for article in read_articles():
        text = described_text(article) if described else article.extract
        yield Document(article.title, article.title, text, f"Wikipedia: {article.title}")


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
    every = [item for item in sorted(path.rglob("*")) if item.is_file() and not item.name.startswith(".")]
    fitting = [item for item in every if item.name.lower().endswith(suffixes)]
    if not fitting:
        raise UserError(f"{path}: no file ends in {', '.join(suffixes)}. Mend knowledge.path or knowledge.kind.")
    for item in every:
        if not item.name.lower().endswith(suffixes):
            left_out.add("other_file", str(item), f"does not end in {', '.join(suffixes)}")
    return fitting
