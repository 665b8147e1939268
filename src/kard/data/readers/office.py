"""Readers of PDF and DOCX: their pages, paragraphs and tables as text; and of rows in XLSX."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

from kard.data.readers.documents import Content, LeftOut, Parts
from kard.data.textfile import DOCUMENT_BYTES, MARKUP_BYTES, too_large
from kard.errors import UserError, missing_package
from kard.progress import say

_OLD_OFFICE = b"\xd0\xcf\x11\xe0"  # also what a password puts around a DOCX
_PACKAGE_BYTES = 8 * DOCUMENT_BYTES  # pictures and all
_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
# Of a paragraph or table: what only stands around others, and what is no text (a text box's older form, what was deleted).
_AROUND = {"sdt", "sdtContent", "ins", "moveTo", "customXml", "smartTag"}
_NO_TEXT = {"del", "moveFrom", "delText", "instrText", "Fallback", "pPr", "rPr", "rt", "sdtPr", "txbxContent"}
_MARKS = {"tab": " ", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "softHyphen": "\u00ad"}


def pdf_parts(path: Path, left_out: LeftOut) -> Content:
    """A PDF's title and its pages; pages without text and pages that cannot be read are noted.

    Raises:
        UserError: It has a password (the empty one is tried), or more text than one document may have.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # a line for each odd object; what it cannot read it raises
    try:
        reader = PdfReader(path)
    except DependencyError as error:
        raise UserError(f"{path}: is encrypted ({error}). Run: pip install 'kard[files]'.") from error
    if reader.is_encrypted and not reader.decrypt(""):
        raise UserError(f"{path}: has a password. Save it without one.")
    title = reader.metadata.title if reader.metadata else ""
    return Content(title or "", _pages(reader, path, left_out))


def _pages(reader: Any, path: Path, left_out: LeftOut) -> Parts:
    without, length, number = 0, 0, 0
    for number, page in enumerate(reader.pages, start=1):
        try:
            text = _unwrapped(page.extract_text())
        except Exception as error:  # a converter may raise anything on a damaged page
            left_out.add("broken", f"{path}, page {number}", f"{type(error).__name__}: {error}")
            continue
        length += len(text)
        if length > DOCUMENT_BYTES:
            raise too_large(str(path))
        without += not text
        yield text, f"page {number}"
    if without:
        said = f"{without} of {number} pages have no text: if they are scanned, run OCR first"
        left_out.add("pages_without_text", str(path), said, without)


def _unwrapped(page: str) -> str:
    """A page's text without the line ends inside its sentences, words that were divided put together."""
    text = ""
    for line in page.split("\n"):
        if line[:1].islower() and text.endswith(("-", "\u2010")) and text[-2:-1].isalpha():
            text = text[:-1] + line
        elif text.endswith("\u00ad"):
            text += line
        else:
            text += (" " if line[:1].islower() else "\n") + line
    return text.strip()


def docx_parts(path: Path, left_out: LeftOut) -> Content:
    """A DOCX's title (its own, or its first heading), its paragraphs, tables, text boxes and notes.

    Headers and footers of its pages, comments and deleted text are left out.

    Raises:
        UserError: It is no DOCX, has a password, or more text than one document may have.
    """
    _check_package(path, "docx")
    from docx import Document as open_docx

    document = open_docx(str(path))
    styles = {style.style_id: (style.name or "").lower() for style in document.styles}
    blocks = [
        (styles.get(_style(block), ""), _block(block), f"paragraph {number}")
        for number, block in enumerate(_inside(document.element.body, "p", "tbl"), start=1)
    ]
    headings = [
        text for wanted in ("title", "heading 1") for style, text, _ in blocks if style == wanted and text.strip()
    ]
    title = (document.core_properties.title or "").strip() or "".join(headings[:1])
    # A heading that is the title stands in front of every passage.
    parts = [
        (text, place)
        for style, text, place in blocks
        if text.strip() != title.strip() or not style.startswith(("title", "heading"))
    ]
    return Content(title, iter([*parts, *_notes(document.part)]))


def xlsx_rows(path: Path) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows of the first sheet that is not hidden, with their numbers from 1: their cells, of formulas what they gave.

    Raises:
        UserError: It is no XLSX, has a password, or is too large; or openpyxl is not installed.
    """
    _check_package(path, "xlsx")
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise missing_package(error, f"{path}: this kind of file") from error
    try:
        sheets = load_workbook(path, read_only=True, data_only=True).worksheets
        sheet = next((one for one in sheets if one.sheet_state == "visible"), sheets[0])
        sheet.reset_dimensions()  # what a file says of its own size may be wrong
        yield from enumerate(sheet.iter_rows(values_only=True), start=1)
    except Exception as error:  # a reader may raise anything on a damaged file
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}). Mend the file.") from error
    if others := [one.title for one in sheets if one is not sheet]:
        say(f"  {path}: sheet '{sheet.title}' is read; others are not: {', '.join(others)}")


def _check_package(path: Path, kind: str) -> None:
    """That what will be unpacked is a zip archive of bounded size."""
    with open(path, "rb") as file:
        if file.read(4) == _OLD_OFFICE:
            raise UserError(f"{path}: has a password, or is an old .{kind[:-1]}. Save it as .{kind} without one.")
    if not is_zipfile(path):
        raise UserError(f"{path}: is no {kind.upper()}, or its end is missing. Mend or remove the file.")
    with ZipFile(path) as package:
        sizes = [(item.filename.lower().endswith((".xml", ".rels")), item.file_size) for item in package.infolist()]
    if sum(size for is_xml, size in sizes if is_xml) > MARKUP_BYTES:
        raise too_large(str(path), MARKUP_BYTES)
    if sum(size for _, size in sizes) > _PACKAGE_BYTES:
        raise too_large(str(path), _PACKAGE_BYTES)


def _local(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


def _inside(element: Any, *names: str) -> Iterator[Any]:
    """Children of these names, also inside of content controls and tracked changes."""
    for child in element:
        if _local(child) in names:
            yield child
        elif _local(child) in _AROUND:
            yield from _inside(child, *names)


def _style(block: Any) -> str:
    found = block.find(f"{_WORD}pPr/{_WORD}pStyle")
    return found.get(f"{_WORD}val", "") if found is not None else ""


def _block(block: Any) -> str:
    """The text of a paragraph with its text boxes, or of a table: a line for each row, merged cells once."""
    if _local(block) == "p":
        boxes = [_blocks(box) for box in _boxes(block)]
        return "\n".join(text for text in ("".join(_texts(block)), *boxes) if text.strip())
    rows = ([" ".join(_blocks(cell).split()) for cell in _cells(row)] for row in _inside(block, "tr"))
    return "\n".join(" | ".join(row) for row in rows)


def _blocks(element: Any) -> str:
    return "\n".join(_block(block) for block in _inside(element, "p", "tbl"))


def _cells(row: Any) -> Iterator[Any]:
    """A row's cells without those that go on from the cell above or before."""
    for cell in _inside(row, "tc"):
        merges = [found for name in ("vMerge", "hMerge") for found in cell.findall(f"{_WORD}tcPr/{_WORD}{name}")]
        if all(merge.get(f"{_WORD}val") == "restart" for merge in merges):
            yield cell


def _texts(element: Any) -> Iterator[str]:
    for child in element:
        name = _local(child)
        if name == "t":
            yield child.text or ""
        elif name in _MARKS:
            yield _MARKS[name]
        elif name not in _NO_TEXT:
            yield from _texts(child)


def _boxes(element: Any) -> Iterator[Any]:
    """The outermost text boxes of a paragraph, each in one of its forms."""
    for child in element:
        name = _local(child)
        if name == "txbxContent":
            yield child
        elif name not in _NO_TEXT:
            yield from _boxes(child)


def _notes(part: Any) -> Parts:
    """Footnotes and endnotes."""
    from docx.oxml import parse_xml

    for relation in part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind not in ("footnotes", "endnotes") or relation.is_external:
            continue
        for note in parse_xml(relation.target_part.blob):
            if note.get(f"{_WORD}type") is None:
                yield _blocks(note).strip(), f"{kind[:-1]} {note.get(f'{_WORD}id')}"
