"""Readers of files that hold one document each: text, Markdown, HTML, PDF, DOCX; each knows where its parts stand."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from kard.data.metadata import GROUPS
from kard.data.readers.documents import Content, Document, LeftOut, Parts, from_parts
from kard.data.readers.office import docx_parts, pdf_parts
from kard.data.textfile import MARKUP_BYTES, PACKED, open_bytes, read_text, too_large
from kard.errors import UserError, missing_package, printable

_NOT_TEXT = ("script", "style", "template", "noscript", "nav", "select", "datalist", "title")
_FRAME = ("header", "footer", "aside")  # of the page; an article's own are text
_BLOCKS = frozenset([
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "figcaption", "footer",
    "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "html", "legend", "li", "main", "ol", "p", "pre", "section", "summary",
    "table", "td", "th", "tr", "ul",
])  # fmt: skip
_MOST_FRONT_MATTER = 65_536
_FRONT_MATTER = re.compile(
    rf"(---|\+\+\+)[ \t]*\n(.{{0,{_MOST_FRONT_MATTER}}}?)^(?:\1|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE
)
_GROUPS_LINE = re.compile(rf"^[\"']?{GROUPS}[\"']?[ \t]*[:=]", re.MULTILINE | re.IGNORECASE)
_KEY = re.compile(r"^[\w-]+[ \t]*[:=]", re.MULTILINE)
_TITLE = re.compile(r"^title[ \t]*[:=][ \t]*(.+)$", re.MULTILINE | re.IGNORECASE)


def file_documents(path: Path, left_out: LeftOut, root: Path) -> Iterator[Document]:
    """The one document of a file; its id is its path from the knowledge folder."""
    name = path.relative_to(root).as_posix() if path != root else path.name
    try:
        stem, read = _reader(path)
        title, parts, metadata = read(path, left_out)
        yield from_parts(name, " ".join(title.split()) or stem, name, parts, metadata)
    except ImportError as error:
        raise missing_package(error, f"{path}: this kind of file") from error


def _reader(path: Path) -> tuple[str, Callable[[Path, LeftOut], Content]]:
    """A file's name without its ends, and what reads it."""
    plain = Path(path.stem) if path.suffix.lower() in PACKED else Path(path.name)
    read = _READERS.get(plain.suffix.lower())
    if read is None:
        raise UserError(f"{path}: no format that is read. Name a file that ends in one of: {', '.join(_READERS)}.")
    return plain.stem, read


def _text(path: Path, left_out: LeftOut) -> Content:
    return Content("", _paragraphs(read_text(path).split("\n")))


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


def _markdown(path: Path, left_out: LeftOut) -> Content:
    from markdown_it import MarkdownIt

    metadata, text = _front_matter(path, left_out)
    named = metadata.pop("title", "")
    title = "" if isinstance(named, list) else str(named)
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
    return Content(title or heading, iter(parts), metadata)


class _FrontMatter(yaml.SafeLoader):
    """YAML by the core schema of its version 1.2, where `no` is a language and 12:30 no number; dates stay texts."""


_FrontMatter.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,14})$", "-+0123456789"),
    ("float", r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+$", "-+0123456789"),
    ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _FrontMatter.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_form), list(_first))


def _front_matter(path: Path, left_out: LeftOut) -> tuple[dict[str, Any], str]:
    """Flat values of a file's front matter (YAML or TOML), and its text with empty lines in its place.

    Raises:
        UserError: What cannot be read may name the groups that may read the document.
    """
    text = read_text(path, MARKUP_BYTES)
    found = _FRONT_MATTER.match(text)
    try:
        if found is None:
            raise ValueError("no front matter, or one without an end")
        content = tomllib.loads(found[2]) if found[1] == "+++" else yaml.load(found[2], _FrontMatter)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        begun = found[2] if found else text[:_MOST_FRONT_MATTER] if text.lstrip().startswith(("---", "+++")) else ""
        if _GROUPS_LINE.search(begun):
            raise UserError(
                f"{path}: its front matter names groups, and cannot be read. Mend its YAML or TOML."
            ) from error
        # What is nearly YAML is front matter all the same: a title with a colon in it.
        content = {"title": named[1]} if (named := _TITLE.search(begun)) else {} if _KEY.match(begun) else None
    if found is None or (not isinstance(content, dict) and content):
        return {}, text  # a line drawn across, and text below
    return _flat(content or {}, path, left_out), "\n" * found[0].count("\n") + text[found.end() :]


def _flat(content: dict[Any, Any], path: Path, left_out: LeftOut) -> dict[str, Any]:
    """Front matter is written for others too: what is no metadata is noted, but for the groups, which are looked at later."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = "title" if str(name).lower() == "title" else str(name)
        inside = value if isinstance(value, list) else [value]
        if key.strip().casefold() == GROUPS:
            flat[key] = [] if value is None else value
        elif any(isinstance(item, dict | list) for item in inside):
            left_out.add("front_matter", str(path), f"'{printable(key[:30])}' holds objects or lists of lists")
        elif value is not None:
            flat[key] = [str(item) for item in value] if isinstance(value, list) else value
    return flat


def _inline(token: Any) -> str:
    if token.type == "html_inline":
        return " " if token.content.lower().startswith("<br") else ""
    return " " if token.type in ("softbreak", "hardbreak") else token.content


def _html(path: Path, left_out: LeftOut) -> Content:
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
    return Content(title or heading, ((text, f"line {line}") for text, line in _html_blocks(soup)))


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


_READERS: dict[str, Callable[[Path, LeftOut], Content]] = {
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
