"""What is known of a document beside its text: flat values by key, and the groups that may read it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from kard.errors import UserError, printable

Metadata = Mapping[str, Any]  # texts, numbers, booleans and lists of texts; dates are texts, as ISO 8601 writes them

GROUPS = "groups"
FOLDER = "folder"
MOST_KEYS = 1_000
MOST_BYTES = 65_536
LARGEST = 2**53
_LONGEST_KEY = 200
_MEND = "Mend it, or name the keys that you need in knowledge.metadata."


def checked_metadata(values: Mapping[str, Any], where: str, wanted: Collection[str] | None) -> dict[str, Any]:
    """Metadata as it is kept: dates as texts, nothing for what is empty, `groups` as a list.

    Args:
        values: By key, as a file has them.
        where: What an error names.
        wanted: The keys that are kept; None: all. `groups` is always kept.

    Raises:
        UserError: A value is something else, or too large.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = GROUPS if name.strip().casefold() == GROUPS else name
        if (
            value is None or value != value or not (wanted is None or key in wanted or key == GROUPS)
        ):  # NaN: pandas' gap
            continue
        shown = printable(key[:30])
        if key in found:
            raise UserError(f"{where}: '{shown}' is there twice. Keep one of them.")
        if not key or key.startswith("$") or len(key) > _LONGEST_KEY:
            raise UserError(
                f"{where}: '{shown}' can be no key of metadata: it is empty, longer than {_LONGEST_KEY} characters, or "
                f"begins with $. {_MEND}"
            )
        found[key] = _groups(value, where) if key == GROUPS else _plain(shown, value, where)
    return found


def _plain(key: str, value: Any, where: str) -> Any:
    value = _value(value)
    if isinstance(value, list):
        value = [_value(item) for item in value]
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts) and not isinstance(value, bool | int | float):
        raise UserError(
            f"{where}: '{key}' holds {_kind(value)}. Metadata is a text, a number, true or false, a date, or a list of texts. "
            f"{_MEND}"
        )
    if isinstance(value, int | float) and too_large(value):
        raise UserError(f"{where}: '{key}' is a number too large to be told from its neighbours. Write a text.")
    size = sum(len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str))
    if size > MOST_BYTES:
        raise UserError(f"{where}: '{key}' holds {size:,} bytes; a value of metadata may hold {MOST_BYTES:,}. {_MEND}")
    return value


def too_large(number: float) -> bool:
    """Whether a number is infinite (or none), or a whole one that float64 does not tell from its neighbours."""
    return abs(number) > LARGEST if isinstance(number, int) else not math.isfinite(number)


def _value(value: Any) -> Any:
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _kind(value: Any) -> str:
    if isinstance(value, list):
        other = next(item for item in value if not isinstance(item, str))
        return f"a list with something else than texts ({type(other).__name__})"
    return "an object" if isinstance(value, dict) else f"something else ({type(value).__name__})"


def _groups(value: Any, where: str) -> list[str]:
    """Names of groups: a list of texts, or one text with commas between them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where}: '{GROUPS}' names no groups. Write a text or a list of texts, or leave it out.")
    return sorted(_plain(GROUPS, list({name for text in texts for name in group_names(text)}), where))


def group_names(text: str) -> list[str]:
    """The names in a text with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]
