"""Which passages may be read for a question: a condition on the documents' metadata, and the groups of who asks."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from kard.data.document_table import Column, DocumentTable
from kard.data.metadata import GROUPS, too_large
from kard.errors import UserError, nearest, printable

_RANGES = {"$gt": np.greater, "$gte": np.greater_equal, "$lt": np.less, "$lte": np.less_equal}
_LISTS = ("$in", "$nin")
_COMPARISONS = ("$eq", "$ne", *_RANGES, *_LISTS)
_JOINS = {"$and": np.logical_and, "$or": np.logical_or}
_KINDS = {str: "a text", int: "a number", float: "a number", bool: "true or false"}
_EXAMPLE = '{"lang": "de"}'
_MOST = 100  # conditions: each takes a look at all documents
_MASK_BYTES = 64 * 2**20


class FilterError(UserError):
    """A filter that cannot be followed."""


@dataclass(frozen=True)
class Restriction:
    """Which documents may be read for a question.

    Attributes:
        filter: A condition on their metadata, as JSON in one form; empty: none.
        groups: The groups of who asks; None: the owner, who may read all.
    """

    filter: str = ""
    groups: frozenset[str] | None = None

    @classmethod
    def of(cls, condition: Mapping[str, Any] | None, groups: Iterable[str] | None = None) -> Restriction:
        """A restriction from a condition such as ``{"year": {"$gte": 2020}, "lang": "de"}``; `Access` reads it.

        Raises:
            FilterError: The condition is no JSON.
        """
        try:
            text = json.dumps(condition, sort_keys=True) if condition else ""
        except (TypeError, ValueError, RecursionError) as error:
            raise FilterError(f"filter: is no JSON, or has too many levels ({error}). Write it flatter.") from error
        return cls(text, None if groups is None else frozenset(groups))


EVERYTHING = Restriction()


def condition_of(condition: Any, where: str = "--filter") -> dict[str, Any] | None:
    """A condition, or one from its JSON text.

    Raises:
        FilterError: Names `where` it was found.
    """
    try:
        found = json.loads(condition) if isinstance(condition, str) else condition
    except (ValueError, RecursionError) as error:
        raise FilterError(f"{where}: the filter is no JSON ({error}). Write it as {_EXAMPLE}.") from error
    if not isinstance(found, dict | None):
        raise FilterError(f"{where}: the filter {_shown(found)} is no condition. Write it as {_EXAMPLE}.")
    return found


class Access:
    """Finds the passages that a restriction leaves. Not for several threads at once.

    Args:
        folder: The one of the passages and documents, of which nothing is read before it is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns: dict[str, Column] = {}
        self._keys: dict[frozenset[str] | None, frozenset[str]] = {}
        self._readers: dict[frozenset[str] | None, np.ndarray] = {}
        self._kinds: dict[tuple[str, frozenset[str] | None], set[str]] = {}
        self._masks: OrderedDict[Restriction, np.ndarray | None] = OrderedDict()

    @cached_property
    def table(self) -> DocumentTable:
        """The documents."""
        return DocumentTable(self.folder)

    @property
    def has_groups(self) -> bool:
        """Whether a document names the groups that may read it."""
        return GROUPS in self.table.keys

    def allowed(self, restriction: Restriction) -> np.ndarray | None:
        """Whether each passage may be read, bool, shape (passages,); None: all of them.

        Raises:
            FilterError: The filter has an unknown operator, a value of another kind than the documents have, or a key that no
                document has. For who may not read a document, it is not there.
        """
        if restriction == EVERYTHING:
            return None
        if restriction not in self._masks:
            documents = self._documents(restriction)
            self._masks[restriction] = None if documents.all() else documents[self._owners]
            while len(self._masks) * len(self._owners) > _MASK_BYTES and len(self._masks) > 1:
                self._masks.popitem(last=False)
        self._masks.move_to_end(restriction)
        return self._masks[restriction]

    @cached_property
    def _owners(self) -> np.ndarray:
        return self.table.owners

    def _documents(self, restriction: Restriction) -> np.ndarray:
        readable = self._readable(restriction.groups)
        if not restriction.filter:
            return readable
        return readable & self._matching(json.loads(restriction.filter), restriction.groups, count(1))

    def _readable(self, groups: frozenset[str] | None) -> np.ndarray:
        """The documents that groups may read: one that names no groups is everybody's."""
        if groups not in self._readers:
            self._readers[groups] = readable = np.ones(len(self.table), dtype=bool)
            if groups is not None and self.has_groups:
                column = self._column(GROUPS)
                readable[column.rows] = False
                for rows in _rows(column, "$in", sorted(groups)):
                    readable[rows] = True
        return self._readers[groups]

    def _column(self, key: str) -> Column:
        if key not in self._columns:
            self._columns[key] = self.table.column(key)
        return self._columns[key]

    def keys(self, groups: frozenset[str] | None) -> frozenset[str]:
        """The keys that documents have which groups may read; who may read which is the owner's to know."""
        if groups not in self._keys:
            readable, own = self._readable(groups), set(self.table.keys)
            if not readable.all():
                rows = zip(self.table, readable.tolist(), strict=True)
                own = {key for row, may_read in rows if may_read for key in row.metadata}
            self._keys[groups] = frozenset(own) if groups is None else frozenset(own) - {GROUPS}
        return self._keys[groups]

    def _matching(self, condition: Any, groups: frozenset[str] | None, counted: Iterator[int]) -> np.ndarray:
        if not isinstance(condition, dict):
            raise FilterError(f"filter: {_shown(condition)} is no condition. Write it as {_EXAMPLE}.")
        parts = [self._part(key, wanted, groups, counted) for key, wanted in condition.items()]
        return np.logical_and.reduce([np.ones(len(self.table), dtype=bool), *parts])

    def _part(self, key: str, wanted: Any, groups: frozenset[str] | None, counted: Iterator[int]) -> np.ndarray:
        if next(counted) > _MOST:
            raise FilterError(f"filter: has more than {_MOST} conditions. Write fewer, or a list for $in.")
        if key == "$not":
            return ~self._matching(wanted, groups, counted)
        if key in _JOINS:
            if not isinstance(wanted, list) or not wanted:
                raise FilterError(f"filter: {key} takes a list of conditions, and found {_shown(wanted)}. Write one.")
            return _JOINS[key].reduce([self._matching(one, groups, counted) for one in wanted])
        if key.startswith("$"):
            raise _no_operator(key, (*_JOINS, "$not"))
        compared = wanted if isinstance(wanted, dict) and wanted else {"$eq": wanted}
        return np.logical_and.reduce([self._compared(key, *one, groups) for one in compared.items()])

    def _compared(self, key: str, operator: str, operand: Any, groups: frozenset[str] | None) -> np.ndarray:
        """Whether each document has a value that compares so; `$ne` and `$nin`: whether it has none of the values."""
        if operator not in _COMPARISONS:
            raise _no_operator(operator, _COMPARISONS)
        values = operand if operator in _LISTS else [operand]
        if not isinstance(values, list):
            raise FilterError(
                f"filter: {operator} of '{_shown(key)}' takes a list, and found {_shown(operand)}. Write one."
            )
        column, kinds = self._known(key, groups)
        kinds = kinds - {"true or false"} if operator in _RANGES else kinds
        for value in values:
            if _KINDS.get(type(value)) not in kinds or (not isinstance(value, str) and too_large(value)):
                takes = " or ".join(sorted(kinds)) or "no value"
                raise FilterError(
                    f"filter: {operator} of '{_shown(key)}' takes {takes}, and found {_shown(value)}. Mend it."
                )
        found = np.zeros(len(self.table), dtype=bool)
        for rows in _rows(column, operator, values):
            found[rows] = True
        return ~found if operator in ("$ne", "$nin") else found

    def _known(self, key: str, groups: frozenset[str] | None) -> tuple[Column, set[str]]:
        """A key's values, and of what kinds they are in the documents that groups may read."""
        known = self.keys(groups)
        if key not in known:
            some = ", ".join(sorted(known)[:10]) + (" …" if len(known) > 10 else "")
            hint = nearest(key[:100], known)
            raise FilterError(f"filter: no document has the key '{_shown(key)}'{hint}. Keys: {some or 'none'}.")
        column, readable = self._column(key), self._readable(groups)
        if (key, groups) not in self._kinds:
            numeric = column.text_rows[~np.isnan(column.as_numbers)[column.codes]]
            rows = {"a text": column.text_rows, "true or false": column.flag_rows}
            rows["a number"] = np.concatenate((column.number_rows, numeric))
            self._kinds[key, groups] = {kind for kind, own in rows.items() if readable[own].any()}
        return column, self._kinds[key, groups]


def _rows(column: Column, operator: str, values: Sequence[Any]) -> Iterator[np.ndarray]:
    """Rows of the documents with a value that is one of those, or lies beyond the one."""
    numbers = [value for value in values if _KINDS[type(value)] == "a number"]
    hit = np.zeros(len(column.texts), dtype=bool)
    for text in (value for value in values if isinstance(value, str)):
        first, end = bisect_left(column.texts, text), bisect_right(column.texts, text)
        spans = {"$gt": (end, None), "$gte": (first, None), "$lt": (0, first), "$lte": (0, end)}
        hit[slice(*spans.get(operator, (first, end)))] = True
    if numbers:
        compare, operand = (_RANGES[operator], numbers[0]) if operator in _RANGES else (np.isin, numbers)
        hit |= compare(column.as_numbers, operand)
        yield column.number_rows[compare(column.numbers, operand)]
    yield column.text_rows[hit[column.codes]]
    yield column.flag_rows[np.isin(column.flags, [value for value in values if isinstance(value, bool)])]


def _no_operator(name: str, known: Iterable[str]) -> FilterError:
    return FilterError(
        f"filter: no operator '{_shown(name)}' here{nearest(name[:20], known)}. Take one of {', '.join(known)}."
    )


def _shown(value: Any) -> str:
    """What was found, not longer than a message should be."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return text if len(text) <= 60 else f"{text[:60]}…"
