"""Knowledge: passages cut from documents, each traceable to where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kard.artifacts import read_jsonl, write_jsonl
from kard.errors import UserError
from kard.knowledge.passages import cut
from kard.questions.jsonl import read_user_jsonl, text_of
from kard.recipe import KnowledgeSection


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        id: Unique in the knowledge base; the document's id, with ``#2``, ``#3`` … for its later pieces.
        title: The document's title, may be empty.
        text: The words.
        document: Id of the document that it was cut from.
        source: File and line (or article) that it came from.
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


@dataclass(frozen=True)
class Document:
    """A text before it is cut."""

    id: str
    title: str
    text: str
    source: str


def load_passages(section: KnowledgeSection) -> list[Passage]:
    """Read the recipe's documents and cut them.

    Raises:
        UserError: A file is missing or wrong (named with its line), or nothing is left.
    """
    documents = _wikivital() if section.kind == "wikivital" else _jsonl(section)
    passages = [passage for document in documents for passage in _passages_of(document, section.passage_words)]
    if not passages:
        raise UserError(
            f"knowledge: no document in {section.path} has an id that begins with '{section.id_prefix}'. Mend id_prefix."
        )
    _check_ids(passages)
    return passages


def _check_ids(passages: list[Passage]) -> None:
    sources: dict[str, str] = {}
    for passage in passages:
        if passage.id in sources:
            raise UserError(
                f"{passage.source}: its passage '{passage.id}' is cut from {sources[passage.id]} too. Rename it."
            )
        sources[passage.id] = passage.source


def _passages_of(document: Document, words: int) -> Iterator[Passage]:
    for number, piece in enumerate(cut(document.text, words), start=1):
        suffix = f"#{number}" if number > 1 else ""
        yield Passage(document.id + suffix, document.title, piece, document.id, document.source)


def _wikivital() -> Iterator[Document]:
    from kard.questions.wikivital import read_articles

    for article in read_articles():
        yield Document(article.title, article.title, article.extract, f"Wikipedia: {article.title}")


def _jsonl(section: KnowledgeSection) -> Iterator[Document]:
    assert section.path is not None
    lines: dict[str, int] = {}
    for number, row in read_user_jsonl(section.path):
        where = f"{section.path}:{number}"
        identity = text_of(row, "id", where)
        if identity in lines:
            raise UserError(
                f"{where}: id '{identity}' is already on line {lines[identity]}. Give every document its own id."
            )
        lines[identity] = number
        title = row.get("title") or ""
        if not isinstance(title, str):
            raise UserError(f"{where}: 'title' is no text. Give a text, or leave it out.")
        text = text_of(row, "text", where)
        if identity.startswith(section.id_prefix):
            yield Document(identity, title, text, f"{section.path.name}:{number}")
    if not lines:
        raise UserError(f"{section.path}: holds no document. Add one JSON object a line.")


def write_passages(path: Path, passages: Iterable[Passage]) -> None:
    """Write passages as JSONL."""
    write_jsonl(path, (asdict(passage) for passage in passages))


def read_passages(path: Path) -> list[Passage]:
    """Read passages that `write_passages` wrote; their order is the order of the index."""
    return [Passage(**row) for row in read_jsonl(path)]
