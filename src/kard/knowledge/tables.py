"""Readers of documents in rows: JSONL, CSV, parquet (as in the dumps of wikimedia/wikipedia: id, url, title, text)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kard.errors import UserError, missing_package
from kard.knowledge.documents import Document
from kard.questions.jsonl import read_user_jsonl, text_of
from kard.recipe import KnowledgeSection

_PARQUET_ROWS = 1_000
_LONGEST_FIELD = 1 << 30


def jsonl_documents(path: Path, section: KnowledgeSection) -> Iterator[Document]:
    """Objects with ``id, title, text``, or with the recipe's names for them."""
    rows = ((f"{path.name}:{line}", f"{path}:{line}", row) for line, row in read_user_jsonl(path))
    yield from _documents(rows, path, section)


def csv_documents(path: Path, section: KnowledgeSection) -> Iterator[Document]:
    """Rows below a line of column names; separated by commas, semicolons or tabs, whatever the first line has most of."""
    csv.field_size_limit(_LONGEST_FIELD)
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=first.count), strict=True)
        rows = ((f"{path.name}:{reader.line_num}", f"{path}:{reader.line_num}", row) for row in reader)
        yield from _documents(rows, path, section)


def parquet_documents(path: Path, section: KnowledgeSection) -> Iterator[Document]:
    """Rows of a parquet file, read a few at a time."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package(error, "knowledge.kind: parquet") from error

    def rows() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        number = 0
        with parquet.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            wanted = [
                name for key in ("id", "url", "title", "text") if (name := section.columns.get(key, key)) in names
            ]
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    url = row.get("url")
                    yield f"{path.name}, row {number}{f', {url}' if url else ''}", f"{path}, row {number}", row

    yield from _documents(rows(), path, section)


def _documents(
    rows: Iterator[tuple[str, str, Mapping[str, Any]]], path: Path, section: KnowledgeSection
) -> Iterator[Document]:
    """Check rows (their source, where they are, and themselves) and turn them into documents."""
    found = False
    for source, where, row in rows:
        found = True
        named = {key: row.get(section.columns.get(key, key)) for key in ("id", "title", "text")}
        identity = text_of(named, "id", where)
        title = named["title"] or ""
        if not isinstance(title, str):
            raise UserError(f"{where}: 'title' is no text. Give a text, or leave it out.")
        yield Document(identity, title, text_of(named, "text", where), source)
    if not found:
        raise UserError(f"{path}: holds no document. Add one a line or row.")
