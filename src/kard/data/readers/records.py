"""Rows of whatever file holds them: JSON, CSV, Excel, parquet, and folders that the package datasets saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from kard.data.readers.foreign import is_saved
from kard.data.readers.jsonl import read_user_jsonl
from kard.data.readers.office import xlsx_rows
from kard.data.readers.rows import Row
from kard.data.readers.tables import SUFFIXES, csv_rows, parquet_rows
from kard.errors import UserError, missing_package

Records = Iterator[tuple[str, str, Row]]  # their source, where they are, and themselves


def records(path: Path) -> Records:
    """Rows of a file, or of all splits of a saved folder.

    Raises:
        UserError: It cannot be read; or a line of column names has one twice, or an empty one above a cell.
    """
    name = path.name.lower()
    if path.is_dir():
        for split, rows in saved_splits(path).items():
            yield from saved_records(path, split, rows)
    elif name.endswith(SUFFIXES["csv"]):
        yield from csv_rows(path, _check_names)
    elif name.endswith(".xlsx"):
        yield from _sheet(path)
    elif name.endswith(".parquet"):
        for number, row in parquet_rows(path, list):
            yield f"{path.name}, row {number}", f"{path}, row {number}", row
    else:
        for line, row in read_user_jsonl(path):
            yield f"{path.name}:{line}", f"{path}:{line}", row


def saved_splits(path: Path) -> Mapping[str, Iterable[Row]]:
    """The splits of a folder that datasets saved, by their names; of one split alone, it is called ``train``."""
    if not is_saved(path):
        raise UserError(f"{path}: is a folder, and not one that datasets saved (save_to_disk). Name a file.")
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise missing_package(error, f"{path}: a folder that datasets saved", "hub") from error
    try:
        found = load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:  # a file of it is missing or damaged
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}). Save it again.") from error
    return {"train": found} if isinstance(found, Dataset) else dict(found)


def saved_records(path: Path, split: str, rows: Iterable[Row]) -> Records:
    """Rows of a split, numbered from 0 as datasets does."""
    for number, row in enumerate(rows):
        place = f"{split} row {number}"
        yield f"{path.name}, {place}", f"{path}, {place}", row


def _sheet(path: Path) -> Records:
    """Rows of a sheet below the first that is not empty, which names the columns."""
    names: list[str] = []
    for number, cells in xlsx_rows(path):
        texts, where = [_cell(cell) for cell in cells], f"{path}, row {number}"
        if names and any(texts[len(names) :]):
            raise UserError(f"{where}: has more cells than there are column names. Name the columns in the first row.")
        if names and any(texts):
            yield f"{path.name}, row {number}", where, dict(zip_longest(names, texts[: len(names)], fillvalue=""))
        elif any(texts):
            names = texts
            _check_names(names, where)


def _cell(value: Any) -> str:
    """A cell as text; whole numbers without the .0 that a sheet may give them."""
    if value is None:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _check_names(names: list[str], where: str) -> None:
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"{where}: column '{twice[0]}' is there twice. Rename one of them.")
