"""Reader of MediaWiki's XML dumps, streamed: a dump of any size is read page by page, packed or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, iterparse

from kard.data.readers.documents import Document, LeftOut, from_parts
from kard.data.textfile import PACKED, open_bytes
from kard.errors import missing_package

SUFFIXES = (".xml", *(f".xml{packed}" for packed in PACKED))
_LEFT_OUT_TAGS = ("ref", "gallery", "table", "math", "timeline")
# What MediaWiki calls pictures and categories in the largest Wikipedias; a dump's siteinfo adds its own names.
_LEFT_OUT_LINKS = """
    file image category datei bild kategorie fichier catégorie archivo imagen categoría immagine categoria
    ficheiro imagem arquivo bestand afbeelding categorie plik grafika kategoria файл изображение категория
    зображення категорія fil kategori tiedosto kuva luokka soubor obrázek fájl kép kategória αρχείο εικόνα
    κατηγορία dosya resim ملف صورة تصنيف پرونده رده קובץ תמונה קטגוריה ファイル 画像 カテゴリ 文件
    档案 檔案 图像 圖像 分类 分類 파일 그림
    분류 hình berkas gambar चित्र श्रेणी
"""
_PICTURES, _CATEGORIES = "6", "14"
# MediaWiki itself takes no more than 2 MB; what is longer is no article, and its markup would take minutes to parse.
PAGE_CHARACTERS = 2 * 2**20


def mediawiki_documents(path: Path, left_out: LeftOut) -> Iterator[Document]:
    """Articles of a dump (namespace 0, no redirects) as plain text; an article's id is its title.

    A page that cannot be parsed, has no title, or is longer than `PAGE_CHARACTERS` is noted. Infoboxes, tables, references,
    pictures and categories are left out of the text.
    """
    with open_bytes(path) as file:
        for page in _pages(file):
            source = f"{path.name}, page {page.number}"
            try:
                parts = _paragraphs(page)
            except (ValueError, RecursionError) as error:
                left_out.add("broken", f"{source} ({page.title})", f"{type(error).__name__}: {error}")
                continue
            yield from_parts(page.title, page.title, source, iter(parts))


@dataclass(frozen=True)
class _Page:
    """What a page of a dump says; `links` are the names of links that are no text."""

    title: str
    number: str
    text: str
    links: frozenset[str]


def _pages(file: BinaryIO) -> Iterator[_Page]:
    """Articles of a dump; what has been read of it is given up page by page, older revisions at once."""
    links, others = {*_LEFT_OUT_LINKS.split(), "tập tin", "thể loại"}, set[str]()
    text = ""
    elements = iterparse(file, ("start", "end"))
    root: Element = next(elements)[1]
    for event, element in elements:
        name = element.tag.rpartition("}")[2] if event == "end" else ""
        if name == "namespace":
            space = (element.text or "").strip().casefold()
            (links if element.get("key") in (_PICTURES, _CATEGORIES) else others).add(space)
        elif name == "revision":
            text = "".join(part for found in element.iterfind("{*}text") for part in found.itertext())
            element.clear()
        elif name == "page":
            if _is_article(element, links | others):
                title, number = (element.findtext(f"{{*}}{part}", "").strip() for part in ("title", "id"))
                yield _Page(title, number or "?", text, frozenset(links))
            text = ""
            root.clear()


def _is_article(page: Element, spaces: set[str]) -> bool:
    if page.find("{*}redirect") is not None:
        return False
    if (number := page.findtext("{*}ns")) is not None:
        return number.strip() == "0"
    space, colon, _ = page.findtext("{*}title", "").strip().partition(":")
    return not colon or space.casefold() not in spaces


def _paragraphs(page: _Page) -> list[tuple[str, str]]:
    """Plain paragraphs of an article, each with its character in the plain text."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise missing_package(error, "knowledge.kind: mediawiki") from error
    if len(page.text) > PAGE_CHARACTERS:
        raise ValueError(f"has more than {PAGE_CHARACTERS:,} characters")
    if not page.title:
        raise ValueError("has no title")
    code = mwparserfromhell.parse(page.text)
    _leave_out(code, page.links)
    plain = code.strip_code(normalize=True, collapse=True)
    found, offset = [], 0
    for line in plain.split("\n"):
        if line.strip():
            found.append((line.strip(), f"character {offset}"))
        offset += len(line) + 1
    return found


def _leave_out(code: Any, links: frozenset[str]) -> None:
    """Take tables, references, pictures and categories out of wikitext, at any depth, each level in one go."""
    from mwparserfromhell.nodes import Tag, Wikilink

    def unwanted(node: Any) -> bool:
        if isinstance(node, Tag):
            return str(node.tag).strip().lower() in _LEFT_OUT_TAGS
        # A link that begins with a colon is an ordinary one.
        space, colon, _ = (
            str(node.title).replace("_", " ").partition(":") if isinstance(node, Wikilink) else ("", "", "")
        )
        return bool(colon) and space.strip().casefold() in links

    code.nodes = [node for node in code.nodes if not unwanted(node)]
    for node in code.nodes:
        inner = node.contents if isinstance(node, Tag) else node.text if isinstance(node, Wikilink) else None
        if inner is not None:
            _leave_out(inner, links)
