"""Readers of documents in rows: JSONL, CSV, parquet (as in the dumps of wikimedia/wikipedia: id, url, title, text)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kard.data.metadata import GROUPS
from kard.data.readers.documents import Document, LeftOut
from kard.data.textfile import DOCUMENT_BYTES, PACKED, json_rows, numbered_lines
from kard.errors import UserError, missing_package, nearest, printable

SUFFIXES = {
    "jsonl": tuple(end + packed for end in (".jsonl", ".ndjson", ".json") for packed in ("", *PACKED)),
    "csv": tuple(end + packed for end in (".csv", ".tsv", ".tab") for packed in ("", *PACKED)),
    "parquet": (".parquet",),
}
Columns = Mapping[str, str]  # the file's names of id, title, text and url, where they are others
_PARQUET_ROWS = 1_000
_SEPARATORS = ",;\t|"
_ESCAPED = re.compile(r'\\(["\\])')


def jsonl_documents(path: Path, left_out: LeftOut, columns: Columns) -> Iterator[Document]:
    """Objects with ``id, title, text``, or with the recipe's names for them."""
    rows = ((f"{path.name}:{line}", f"{path}:{line}", row) for line, row in json_rows(path))
    yield from _documents(rows, path, columns)


def csv_documents(path: Path, left_out: LeftOut, columns: Columns) -> Iterator[Document]:
    """Rows below a line of column names; separated by commas, semicolons, tabs or bars, whatever that line has most of.

    Quotes are read as RFC 4180 has them; where a file does not keep to it, with backslashes before inner quotes, and a file
    with tabs as it stands.
    """
    yield from _documents(csv_rows(path, partial(_check_names, columns=columns)), path, columns)


def csv_rows(path: Path, check: Callable[[list[str], str], None]) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    """Rows of a CSV file: their source, where they are, and their cells; `check` sees the names of the columns first."""
    csv.field_size_limit(DOCUMENT_BYTES)
    separator, before = _separator(path)
    return _csv_rows(path, _form(path, separator, before), before, check)


def _separator(path: Path) -> tuple[str, int]:
    """What separates the columns, and how many lines stand before their names: Excel may write ``sep=;``."""
    number, line = next((found for found in numbered_lines(path) if found[1].strip()), (1, ""))
    if line.lower().startswith("sep=") and len(line.strip("\r\n")) == 5:
        return line[4], number
    return max(_SEPARATORS, key=line.count), number - 1


class _Form(NamedTuple):
    """How a file writes its cells; escaped: a quote inside of quotes has a backslash in front, not another quote."""

    separator: str
    quoted: bool = True
    escaped: bool = False


def _cells(path: Path, form: _Form, before: int) -> Iterator[tuple[int, list[str]]]:
    """Rows below so many lines, each with the number of its last line; csv.Error where one does not keep to the form."""
    lines = (line for number, line in numbered_lines(path) if number > before)
    if form.escaped:
        lines = (_ESCAPED.sub(lambda found: '""' if found[1] == '"' else "\\", line) for line in lines)
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE
    spaced = form.separator != "\t"
    reader = csv.reader(lines, delimiter=form.separator, quoting=quoting, strict=True, skipinitialspace=spaced)
    return ((before + reader.line_num, row) for row in reader)


def _form(path: Path, separator: str, before: int) -> _Form:
    """The first form that all of a file keeps to, or the usual one."""
    forms = [_Form(separator), _Form(separator, escaped=True)]
    if separator == "\t":
        forms.append(_Form(separator, quoted=False))
    for form in forms:
        try:
            widths = {len(row) for _, row in _cells(path, form, before) if row}
        except csv.Error:
            continue
        if separator != "\t" or len(widths) <= 1 or not form.quoted:
            return form
    return forms[0]


def _csv_rows(
    path: Path, form: _Form, before: int, check: Callable[[list[str], str], None]
) -> Iterator[tuple[str, str, dict[str, str | None]]]:
    names: list[str] = []
    number = before
    try:
        for number, row in _cells(path, form, before):
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [name.strip() for name in row]
                check(names, f"{path}:{number}")
                continue
            if any(cell.strip() for cell in row[len(names) :]):
                raise UserError(
                    f"{path}:{number}: {len(row)} cells, and {len(names)} columns. Put quotes around a cell that holds "
                    f"{form.separator!r}."
                )
            cells = {
                name: cell if cell and cell.strip() else None for name, cell in zip_longest(names, row[: len(names)])
            }
            yield f"{path.name}:{number}", f"{path}:{number}", cells
    except csv.Error as error:
        raise UserError(
            f"{path}:{number + 1}: the row that begins here is no CSV ({error}). Double the quotes inside of a quoted cell."
        ) from error


def _check_names(names: list[str], where: str, columns: Columns) -> None:
    """That the first line names columns: one without names would be lost, and its cells be taken for names."""
    wanted = [columns.get(key, key) for key in ("id", "text")]
    for name in wanted:
        if _key(dict.fromkeys(names), name) is None:
            raise UserError(
                f"{where}: no column '{name}'{_found(name, names)}. Name your columns in knowledge.columns; where the file "
                f"has no line of names, put one first: {' '.join(wanted)}, separated like the rest."
            )
    for name in (*wanted, GROUPS):
        if names.count(name) > 1:
            raise UserError(f"{where}: column '{name}' is there twice. Rename one of them.")


def parquet_documents(
    path: Path, left_out: LeftOut, columns: Columns, wanted: Collection[str] | None = None
) -> Iterator[Document]:
    """Rows of a parquet file, read a few at a time; of metadata the columns that are wanted (None: all)."""

    def read(names: list[str]) -> list[str]:
        _check_names(names, str(path), columns)
        own = {_key(dict.fromkeys(names), columns.get(key, key)) for key in ("id", "url", "title", "text")}
        others = {name for name in names if wanted is None or name in wanted or name.casefold() in (GROUPS, "metadata")}
        return [name for name in names if name in own or name in others]

    def rows() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        for number, row in parquet_rows(path, read):
            url = row.pop(_key(row, columns.get("url", "url")) or "", None)  # it is in the source
            yield f"{path.name}, row {number}{f', {url}' if url else ''}", f"{path}, row {number}", row

    yield from _documents(rows(), path, columns)


def parquet_rows(path: Path, wanted: Callable[[list[str]], list[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet file with their numbers from 1, a few in memory; `wanted` chooses among the names of the columns."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package(error, f"{path}: this kind of file") from error

    number = 0
    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted(file.schema_arrow.names)):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _documents(rows: Iterator[tuple[str, str, Mapping[str, Any]]], path: Path, columns: Columns) -> Iterator[Document]:
    """Check rows (their source, where they are, and themselves) and turn them into documents; a text may be empty."""
    found = False
    for source, where, row in rows:
        found = True
        identity, title, text = (_text(row, key, where, columns) for key in ("id", "title", "text"))
        if text.strip() and not identity.strip():
            raise UserError(f"{where}: 'id' is empty. Give it a text.")
        yield Document(identity, title, text, source, metadata=_metadata(row, where, columns))
    if not found:
        raise UserError(f"{path}: holds no document. Add one a line or row.")


def _metadata(row: Mapping[str, Any], where: str, columns: Columns) -> dict[str, Any]:
    """What a row holds beside id, title and text; an object `metadata` is a part of it."""
    read = {_key(row, columns.get(key, key)) for key in ("id", "title", "text")}
    others = {name: value for name, value in row.items() if name and name not in read}
    inside = others.get("metadata")
    if not isinstance(inside, dict):
        return others
    del others["metadata"]
    if twice := others.keys() & inside.keys():
        raise UserError(f"{where}: '{printable(min(twice)[:30])}' is there twice, in 'metadata' too. Keep one of them.")
    return {**others, **inside}


def _text(row: Mapping[str, Any], key: str, where: str, columns: Columns) -> str:
    """A row's id, title or text; nothing where it has none."""
    name = columns.get(key, key)
    found = _key(row, name)
    if found is None:
        if key == "title":
            return ""
        raise UserError(
            f"{where}: key '{name}' is missing{_found(name, row)}. Add it, or name yours in knowledge.columns."
        )
    value = row[found]
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: '{name}' is no text (found {value!r:.60}). Give a text.")
    return value or ""


def _key(row: Mapping[str, Any], name: str) -> str | None:
    """The row's own name for a column: that name, or the one that is the same but for capitals."""
    if name in row:
        return name
    same = [key for key in row if key.strip().casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None


def _found(name: str, names: Collection[str]) -> str:
    short = [one if len(one) <= 30 else f"{one[:30]}…" for one in names]
    return f" (found: {', '.join(short[:12]) or 'none'}){nearest(name, names)}"


READERS = {"jsonl": jsonl_documents, "csv": csv_documents, "parquet": parquet_documents}
