"""Readers of files that hold one document each: text, Markdown, HTML, PDF, DOCX; each knows where its parts stand."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from kard.data.readers.documents import Document, LeftOut, Parts, from_parts
from kard.data.readers.office import docx_parts, pdf_parts
from kard.data.textfile import MARKUP_BYTES, PACKED, open_bytes, read_text, too_large
from kard.errors import missing_package

_NOT_TEXT = ("script", "style", "template", "noscript", "nav", "select", "datalist", "title")
_FRAME = ("header", "footer", "aside")  # of the page; an article's own are text
_BLOCKS = frozenset([
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "html", "legend", "li", "main", "ol", "p", "pre", "section", "summary",
    "table", "td", "th", "tr", "ul",
])  # fmt: skip
_FRONT_MATTER = re.compile(r"(---|\+\+\+)[ \t]*\n(.{0,65536}?)^(?:\1|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"^[\w-]+[ \t]*[:=]", re.MULTILINE)
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)


def file_documents(path: Path, left_out: LeftOut, root: Path) -> Iterator[Document]:
    """The one document of a file; its id is its path from the knowledge folder."""
    name = path.relative_to(root).as_posix() if path != root else path.name
    try:
        stem, read = _reader(path)
        title, parts = read(path, left_out)
        yield from_parts(name, " ".join(title.split()) or stem, name, parts)
    except ImportError as error:
        raise missing_package(error, f"{path}: this kind of file") from error


def _reader(path: Path) -> tuple[str, Callable[[Path, LeftOut], tuple[str, Parts]]]:
    """A file's name without its ends, and what reads it."""
    plain = Path(path.stem) if path.suffix.lower() in PACKED else Path(path.name)
    return plain.stem, _READERS[plain.suffix.lower()]


def _text(path: Path, left_out: LeftOut) -> tuple[str, Parts]:
    return "", _paragraphs(read_text(path).split("\n"))


def _paragraphs(lines: list[str]) -> Parts:
    """Lines, with those that go on in small letters put behind the one before."""
    paragraph: list[str] = []
    start = 0
    for number, line in enumerate(lines, start=1):
        if paragraph and paragraph != [""] and line[:1].islower():
            paragraph.append(line.strip())
            continue
        yield " ".join(paragraph), f"line {start}"
        paragraph, start = [line.strip()], number
    yield " ".join(paragraph), f"line {start}"


def _markdown(path: Path, left_out: LeftOut) -> tuple[str, Parts]:
    from markdown_it import MarkdownIt

    title, text = _front_matter(read_text(path, MARKUP_BYTES))
    heading = ""
    parts: list[tuple[str, str]] = []
    line = 0
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        line = token.map[0] + 1 if token.map else line
        if token.type == "inline":
            part = "".join(_inline(child) for child in token.children or ())
            opened = before.tag if before is not None and before.type == "heading_open" else ""
            if not heading and (opened == "h1" or (opened and not parts)):
                heading = part
                if (title or heading).strip() == heading.strip():
                    continue  # it stands in front of every passage
            parts.append((part, f"line {line}"))
        elif token.type in ("fence", "code_block"):
            parts.append((token.content, f"line {line}"))
        elif token.type == "html_block":
            blocks = _html_blocks(_soup(token.content))
            parts += ((part, f"line {line + place - 1}") for part, place in blocks)
    return title or heading, iter(parts)


def _front_matter(text: str) -> tuple[str, str]:
    """The title of a text's front matter (YAML or TOML), and the text with empty lines in its place."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return "", text
    try:
        content = tomllib.loads(found[2]) if found[1] == "+++" else yaml.load(found[2], yaml.BaseLoader)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, RecursionError):
        # What is nearly YAML is front matter all the same: a title with a colon in it.
        content = {"title": named[1]} if (named := _TITLE.search(found[2])) else {} if _KEY.match(found[2]) else None
    if not isinstance(content, dict) and content:
        return "", text  # a line drawn across, and text below
    titles = [value for key, value in (content or {}).items() if str(key).lower() == "title" and isinstance(value, str)]
    return "".join(titles[:1]), "\n" * found[0].count("\n") + text[found.end() :]


def _inline(token: Any) -> str:
    if token.type == "html_inline":
        return " " if token.content.lower().startswith("<br") else ""
    return " " if token.type in ("softbreak", "hardbreak") else token.content


def _html(path: Path, left_out: LeftOut) -> tuple[str, Parts]:
    with open_bytes(path) as file:
        content = file.read(MARKUP_BYTES + 1)
    if len(content) > MARKUP_BYTES:
        raise too_large(str(path), MARKUP_BYTES)
    soup = _soup(content)
    if soup.contains_replacement_characters:
        left_out.add("undecodable", str(path), "some bytes are no characters of its encoding, and became U+FFFD")
    titles = [element for element in soup("title") if not element.find_parent("svg")]
    headings = soup("h1")
    for element in soup(_FRAME):
        if not element.find_parent(["article", "main"]):
            element.decompose()
    headings = [*soup("h1"), *headings]
    title, heading = (" ".join(found[0].get_text().split()) if found else "" for found in (titles, headings))
    if heading and heading == (title or heading):
        headings[0].decompose()  # it stands in front of every passage
    return title or heading, ((text, f"line {line}") for text, line in _html_blocks(soup))


def _soup(content: str | bytes) -> Any:
    from bs4 import BeautifulSoup

    return BeautifulSoup(content, "html.parser")


def _html_blocks(soup: Any) -> Iterator[tuple[str, int]]:
    """Texts that stand in the same block of the page, one after the other, each with its line."""
    for element in soup(_NOT_TEXT):
        element.decompose()
    for element in soup("br"):
        element.replace_with(" ")
    block: Any = None
    texts: list[str] = []
    for text in soup.strings:
        own = next((parent for parent in text.parents if parent.name in _BLOCKS), None)
        if own is not block:
            yield " ".join("".join(texts).split()), block.sourceline if block else 1
            block, texts = own, []
        texts.append(text)
    yield " ".join("".join(texts).split()), block.sourceline if block else 1


_READERS: dict[str, Callable[[Path, LeftOut], tuple[str, Parts]]] = {
    ".txt": _text,
    ".text": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": pdf_parts,
    ".docx": docx_parts,
}
_ONCE_PACKED = (pdf_parts, docx_parts)  # and never again around that
SUFFIXES = tuple(
    end + packed for end, read in _READERS.items() for packed in ("", *(() if read in _ONCE_PACKED else PACKED))
)
