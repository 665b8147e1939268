"""Reader of MediaWiki's XML dumps, streamed: a dump of any size is read page by page, packed or not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import XMLParser

from kard.data.readers.documents import Document, LeftOut
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
_CHUNK = 1 << 16
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
            plain = "\n".join(paragraph for _, paragraph in parts)
            offsets, length = [], 0
            for offset, paragraph in parts:
                offsets.append((length, f"character {offset}"))
                length += len(paragraph) + 1
            yield Document(page.title, page.title, plain, source, tuple(offsets))


@dataclass
class _Page:
    """What a page of a dump says, as far as it was read; `links` are the names of links that are no text."""

    links: frozenset[str]
    values: dict[str, list[str]] = field(default_factory=dict)
    characters: int = 0

    @property
    def title(self) -> str:
        return "".join(self.values.get("title", ())).strip()

    @property
    def number(self) -> str:
        return "".join(self.values.get("id", ())).strip() or "?"


class _Reader:
    """What the XML parser calls: it keeps the page that is being read, and of that no more than is needed."""

    def __init__(self) -> None:
        self.pages: list[_Page] = []
        self._path: list[str] = []
        self._page = _Page(frozenset())
        self._links = {*_LEFT_OUT_LINKS.split(), "tập tin", "thể loại"}
        self._others: set[str] = set()
        self._space = ("", [""])

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]
        self._path.append(name)
        if name == "page":
            self._page = _Page(frozenset(self._links))
        elif name == "namespace":
            self._space = (attributes.get("key", ""), [])
        elif name in ("redirect", "ns") or (name == "text" and self._path[-2:-1] == ["revision"]):
            self._page.values[name] = []  # the text of an older revision goes

    def end(self, tag: str) -> None:
        name = self._path.pop()
        if name == "namespace":
            key, names = self._space[0], "".join(self._space[1]).strip().casefold()
            (self._links if key in (_PICTURES, _CATEGORIES) else self._others).add(names)
        elif name == "page" and self._is_article():
            self.pages.append(self._page)

    def _is_article(self) -> bool:
        values = self._page.values
        if "ns" in values:
            return "".join(values["ns"]).strip() == "0" and "redirect" not in values
        space = self._page.title.partition(":")[0].casefold()
        return "redirect" not in values and (
            space == self._page.title.casefold() or space not in self._others | self._links
        )

    def data(self, text: str) -> None:
        where = self._path[-2:]
        if where[-1:] == ["namespace"]:
            self._space[1].append(text)
        elif where in (["page", "title"], ["page", "ns"], ["page", "id"], ["revision", "text"]):
            self._page.characters += len(text)
            if self._page.characters <= PAGE_CHARACTERS:
                self._page.values.setdefault(where[1], []).append(text)


def _pages(file: BinaryIO) -> Iterator[_Page]:
    reader = _Reader()
    parser = XMLParser(target=reader)
    while chunk := file.read(_CHUNK):
        parser.feed(chunk)
        yield from reader.pages
        reader.pages.clear()
    parser.close()


def _paragraphs(page: _Page) -> list[tuple[int, str]]:
    """Plain paragraphs of an article, each with its character in the plain text."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise missing_package(error, "knowledge.kind: mediawiki") from error
    if page.characters > PAGE_CHARACTERS:
        raise ValueError(f"has more than {PAGE_CHARACTERS:,} characters")
    if not page.title:
        raise ValueError("has no title")
    code = mwparserfromhell.parse("".join(page.values.get("text", ())))
    _leave_out(code, page.links)
    plain = code.strip_code(normalize=True, collapse=True)
    found, offset = [], 0
    for line in plain.split("\n"):
        if line.strip():
            found.append((offset, line.strip()))
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
