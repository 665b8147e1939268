"""The documents of a knowledge base, a row each in their order, and which of them each passage is cut from."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts.damage import damaged
from kard.artifacts.files import read_json, read_jsonl, write_json, write_jsonl
from kard.data.metadata import MOST_KEYS, Metadata
from kard.errors import UserError, printable

DOCUMENTS, OWNERS, COUNTS = "documents.jsonl", "passages.owners.i32", "documents.json"


@dataclass(frozen=True)
class DocumentRow:
    """A document as the knowledge base knows it.

    Attributes:
        id: Its passages' `document`.
        title: May be empty.
        source: File, and line or row.
        passages: How many of it are in the knowledge base; 0 where all are duplicates of others.
        metadata: Flat values by key.
    """

    id: str
    title: str
    source: str
    passages: int
    metadata: Metadata = field(default_factory=dict)


@contextmanager
def documents_written(folder: Path) -> Iterator[Callable[[DocumentRow], None]]:
    """Write ``documents.jsonl`` (a row a document), ``passages.owners.i32`` (for each passage the row of its document) and
    ``documents.json`` (how many documents there are, and how many have each key) into the folder of the passages.

    What is given adds a document, and its passages as the next ones; it raises UserError where there are too many keys.
    """
    documents, keys = 0, Counter[str]()
    with open(folder / DOCUMENTS, "w", encoding="utf-8") as rows, open(folder / OWNERS, "wb") as owners:

        def add(row: DocumentRow) -> None:
            nonlocal documents
            keys.update(row.metadata.keys())
            if len(keys) > MOST_KEYS:
                raise UserError(
                    f"{row.source}: the documents have more than {MOST_KEYS:,} different keys; "
                    f"'{printable(next(reversed(keys))[:30])}' is one more. Put such keys into one list of texts, or name those "
                    "that you need in knowledge.metadata."
                )
            rows.write(json.dumps(vars(row), ensure_ascii=False) + "\n")
            owners.write(np.full(row.passages, documents, dtype="<i4").tobytes())
            documents += 1

        yield add
    write_json(folder / COUNTS, {"documents": documents, "keys": dict(keys)})


@dataclass(frozen=True)
class Column:
    """The values of one key, by kind; a list of texts has as many entries.

    Attributes:
        rows: Rows of the documents that have the key, rising; as all rows, int32.
        texts: The different texts, sorted.
        text_rows: Rows of documents; `codes` (int32) say which of `texts` each has.
        number_rows: The same for `numbers` (float64).
        flag_rows: The same for `flags` (bool).
    """

    rows: np.ndarray
    texts: list[str]
    text_rows: np.ndarray
    codes: np.ndarray
    number_rows: np.ndarray
    numbers: np.ndarray
    flag_rows: np.ndarray
    flags: np.ndarray

    @cached_property
    def as_numbers(self) -> np.ndarray:
        """The numbers that `texts` stand for, NaN for others: a CSV file has texts alone."""
        return np.array([_number(text) for text in self.texts], dtype=np.float64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


class DocumentTable:
    """The documents that belong to the passages of a folder; what of them is read stays on disk until it is asked for.

    Args:
        folder: The one that `documents_written` wrote into.

    Raises:
        UserError: The folder was made before there was such a table, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        counts = read_json(folder / COUNTS)
        self._count = int(counts["documents"])
        self.keys: dict[str, int] = counts["keys"]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[DocumentRow]:
        return (DocumentRow(**row) for row in read_jsonl(self.folder / DOCUMENTS))

    def lines(self) -> Iterator[str]:
        """The rows as they stand in the file."""
        with open(self.folder / DOCUMENTS, encoding="utf-8") as file:
            yield from file

    @property
    def owners(self) -> np.ndarray:
        """For each passage the row of its document, int32, rising."""
        owners = np.fromfile(self.folder / OWNERS, dtype="<i4")
        if len(owners) and not 0 <= owners[0] <= owners[-1] < self._count:
            raise damaged(self.folder / OWNERS, "is damaged (it names documents that are not there)")
        return owners

    def column(self, key: str) -> Column:
        """All values of a key; one pass through the file."""
        rows, text_rows, codes, known = array("i"), array("i"), array("i"), dict[str, int]()
        number_rows, numbers, flag_rows, flags = array("i"), array("d"), array("i"), array("b")
        for row, value in self.values(key):
            rows.append(row)
            if isinstance(value, bool):
                flag_rows.append(row)
                flags.append(value)
            elif isinstance(value, int | float):
                number_rows.append(row)
                numbers.append(value)
            else:
                for text in [value] if isinstance(value, str) else value:
                    text_rows.append(row)
                    codes.append(known.setdefault(text, len(known)))
        places = np.empty(len(known), dtype=np.int32)
        texts = sorted(known)
        places[[known[text] for text in texts]] = np.arange(len(texts))
        return Column(
            np.array(rows),
            texts,
            np.array(text_rows),
            places[np.array(codes)],
            np.array(number_rows),
            np.array(numbers),
            np.array(flag_rows),
            np.array(flags, dtype=bool),
        )

    def values(self, key: str) -> Iterator[tuple[int, Any]]:
        """Rows of the documents that have a key, rising, with its value."""
        name = json.dumps(key, ensure_ascii=False).encode("utf-8")
        with open(self.folder / DOCUMENTS, "rb") as file:
            for row, line in enumerate(file):
                if name in line and key in (metadata := json.loads(line)["metadata"]):
                    yield row, metadata[key]


def keep_passages(folder: Path, kept: np.ndarray) -> None:
    """Take passages out of the table; every document keeps its row.

    Args:
        folder: The passages'.
        kept: Whether a passage stays, bool, one each of those that were there.
    """
    table = DocumentTable(folder)
    owners = table.owners[kept]
    counts = np.bincount(owners, minlength=len(table)).tolist()
    whole = folder / "kept.documents.jsonl"
    write_jsonl(whole, (vars(replace(row, passages=left)) for row, left in zip(table, counts, strict=True)))
    owners.tofile(folder / OWNERS)
    whole.replace(folder / DOCUMENTS)


def merge_documents(folder: Path, parts: Sequence[tuple[DocumentTable, Collection[int], np.ndarray]]) -> int:
    """Write the table of passages that are taken over from other folders, one folder behind the other.

    Args:
        folder: Gets the table.
        parts: A table, its rows that are left out, and rising positions of the passages that are taken.

    Returns:
        How many documents there are.

    Raises:
        UserError: There are too many different keys.
    """
    keys, count, owners = Counter[str](), 0, []
    with open(folder / DOCUMENTS, "w", encoding="utf-8") as file:
        for table, without, passages in parts:
            before, after = (np.bincount(own, minlength=len(table)) for own in (table.owners, table.owners[passages]))
            new = np.full(len(table), -1, dtype="<i4")
            keys.update(table.keys)
            for row, (line, was, now) in enumerate(zip(table.lines(), before.tolist(), after.tolist(), strict=True)):
                if row in without:
                    keys.subtract(json.loads(line)["metadata"].keys())
                    continue
                file.write(
                    line if was == now else json.dumps({**json.loads(line), "passages": now}, ensure_ascii=False) + "\n"
                )
                new[row] = count
                count += 1
            owners.append(new[table.owners[passages]])
    there = {key: number for key, number in keys.items() if number > 0}
    if len(there) > MOST_KEYS:
        raise UserError(
            f"{folder}: the documents would have more than {MOST_KEYS:,} different keys of metadata. Put such keys into one list "
            "of texts."
        )
    np.concatenate(owners).tofile(folder / OWNERS)
    write_json(folder / COUNTS, {"documents": count, "keys": there})
    return count
