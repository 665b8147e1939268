"""Readers of files that hold one document each: text, Markdown, HTML, PDF, DOCX; each knows where its parts stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kard.errors import missing_package
from kard.knowledge.documents import Document, LeftOut, from_parts

Parts = Iterator[tuple[str, str]]

_NOT_TEXT = ("script", "style", "template", "noscript", "nav", "header", "footer", "aside", "form")
_BLOCKS = [
    "address", "article", "blockquote", "body", "caption", "dd", "div", "dl", "dt", "figcaption", "h1", "h2", "h3", "h4",
    "h5", "h6", "html", "li", "main", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul",
]  # fmt: skip


def file_documents(path: Path, root: Path) -> Iterator[Document]:
    """The one document of a file; its id is its path from the knowledge folder."""
    name = path.relative_to(root).as_posix() if path != root else path.name
    try:
        title, parts = _READERS[path.suffix.lower()](path)
        yield from_parts(name, title or path.stem, name, parts)
    except ImportError as error:
        raise missing_package(error, f"{path}: this kind of file") from error


def _text(path: Path) -> tuple[str, Parts]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return "", _paragraphs(lines)


def _paragraphs(lines: list[str]) -> Parts:
    """Lines, with those that go on in small letters put behind the one before."""
    paragraph, start = "", 0
    for number, line in enumerate(lines, start=1):
        if paragraph and line[:1].islower():
            paragraph += " " + line.strip()
            continue
        yield paragraph, f"line {start}"
        paragraph, start = line.strip(), number
    yield paragraph, f"line {start}"


def _markdown(path: Path) -> tuple[str, Parts]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8-sig"))
    parts: list[tuple[str, str]] = []
    title, line = "", 0
    for before, token in zip([None, *tokens], tokens, strict=False):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            text = "".join(_inline(child) for child in token.children or ())
            parts.append((text, f"line {line}"))
            title = title or (text if before is not None and before.type == "heading_open" else "")
        elif token.type in ("fence", "code_block"):
            parts.append((token.content, f"line {line}"))
    return title, iter(parts)


def _inline(token: Any) -> str:
    return " " if token.type in ("softbreak", "hardbreak") else token.content if token.type != "html_inline" else ""


def _html(path: Path) -> tuple[str, Parts]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(path.read_bytes(), "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for element in soup(["head", *_NOT_TEXT]):
        element.decompose()
    for element in soup("br"):
        element.replace_with(" ")
    return title, _html_blocks(soup)


def _html_blocks(soup: Any) -> Parts:
    """Texts that stand in the same block of the page, one after the other."""
    block: Any = None
    texts = [""]
    for text in soup.strings:
        own = text.find_parent(_BLOCKS)
        if own is not block:
            yield " ".join("".join(texts).split()), f"line {block.sourceline if block else 1}"
            block, texts = own, []
        texts.append(text)
    yield " ".join("".join(texts).split()), f"line {block.sourceline if block else 1}"


def _pdf(path: Path) -> tuple[str, Parts]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    title = reader.metadata.title if reader.metadata else ""
    return title or "", ((_unwrapped(page.extract_text()), f"page {n}") for n, page in enumerate(reader.pages, start=1))


def _unwrapped(page: str) -> str:
    """A page's text without the line ends inside its sentences, words that were divided put together."""
    text = ""
    for line in page.split("\n"):
        if line[:1].islower() and text.endswith("-") and text[-2:-1].isalpha():
            text = text[:-1] + line
        else:
            text += (" " if line[:1].islower() else "\n") + line
    return text.strip()


def _docx(path: Path) -> tuple[str, Parts]:
    from docx import Document as open_docx
    from docx.table import Table

    document = open_docx(str(path))

    def parts() -> Parts:
        for number, item in enumerate(document.iter_inner_content(), start=1):
            if isinstance(item, Table):
                rows = (" | ".join(cell.text for cell in row.cells) for row in item.rows)
                yield "\n".join(rows), f"paragraph {number}"
            else:
                yield item.text, f"paragraph {number}"

    return document.core_properties.title or "", parts()


_READERS: dict[str, Callable[[Path], tuple[str, Parts]]] = {
    ".txt": _text,
    ".text": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
    ".docx": _docx,
}
SUFFIXES = tuple(_READERS)


def read_file(root: Path) -> Callable[[Path, LeftOut], Iterator[Document]]:
    """A reader of files below `root`."""
    return lambda path, left_out: file_documents(path, root)
