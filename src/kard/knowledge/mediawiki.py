"""Reader of MediaWiki's XML dumps, streamed: a dump of any size is read page by page, packed or not."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree.ElementTree import Element, iterparse

from kard.errors import missing_package
from kard.knowledge.documents import Document, LeftOut

SUFFIXES = (".xml", ".xml.bz2", ".xml.gz")
_LEFT_OUT_TAGS = ("ref", "gallery", "table", "math", "timeline")
_LEFT_OUT_LINKS = ("file:", "image:", "category:")


def mediawiki_documents(path: Path, left_out: LeftOut) -> Iterator[Document]:
    """Articles of a dump (namespace 0, no redirects) as plain text; an article's id is its title.

    A page that cannot be parsed is noted. Infoboxes, tables, references and pictures are left out of the text.
    """
    with _opened(path) as file:
        for title, number, text in _pages(file):
            source = f"{path.name}, page {number}"
            try:
                parts = _paragraphs(text)
            except (ValueError, RecursionError) as error:
                left_out.add("broken", f"{source} ({title})", f"{type(error).__name__}: {error}")
                continue
            plain = "\n".join(paragraph for _, paragraph in parts)
            offsets, length = [], 0
            for offset, paragraph in parts:
                offsets.append((length, f"character {offset}"))
                length += len(paragraph) + 1
            yield Document(title, title, plain, source, tuple(offsets))


def _opened(path: Path) -> Any:
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _pages(file: IO[bytes]) -> Iterator[tuple[str, str, str]]:
    """Title, number and wikitext of each article."""
    root: Element | None = None
    for event, element in iterparse(file, events=("start", "end")):
        if root is None:
            root = element
        if event == "end" and _name(element) == "page":
            page = {_name(child): child for child in element}
            text = next((child.text or "" for child in page["revision"] if _name(child) == "text"), "")
            if page["ns"].text == "0" and "redirect" not in page:
                yield page["title"].text or "", page["id"].text or "", text
            root.clear()  # or the whole dump would be in memory in the end


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _paragraphs(wikitext: str) -> list[tuple[int, str]]:
    """Plain paragraphs of an article, each with its character in the plain text."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise missing_package(error, "knowledge.kind: mediawiki") from error
    code = mwparserfromhell.parse(wikitext)
    for node in [*code.filter_tags(matches=_unwanted_tag), *code.filter_wikilinks(matches=_unwanted_link)]:
        _remove(code, node)
    plain = code.strip_code(normalize=True, collapse=True)
    found, offset = [], 0
    for line in plain.split("\n"):
        if line.strip():
            found.append((offset, line.strip()))
        offset += len(line) + 1
    return found


def _unwanted_tag(node: Any) -> bool:
    return str(node.tag).strip().lower() in _LEFT_OUT_TAGS


def _unwanted_link(node: Any) -> bool:
    return str(node.title).strip().lower().startswith(_LEFT_OUT_LINKS)


def _remove(code: Any, node: Any) -> None:
    if code.contains(node):  # it may have stood in another one that is gone
        code.remove(node)
