"""The results as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kard.methods import METHODS
from kard.progress import duration
from kard.report.numbers import is_oracle


def summary_table(results: dict[str, Any]) -> Table:
    """One run's methods: accuracy, interval, unparsed answers, seconds.

    Args:
        results: The content of results.json.
    """
    table = _table()
    table.title = Text(f"{results['recipe']}: {results['methods'][0]['n']:,} {results['split']} questions")
    for column in ("accuracy %", "95 % interval", "unparsed", "training", "prediction"):
        table.add_column(column, justify="right")
    for row in results["methods"]:
        table.add_row(
            _name(row["name"]),
            f"{100 * row['accuracy']:.1f}",
            _interval(row),
            str(row["unparsed"]),
            duration(row["train_seconds"]),
            duration(row["predict_seconds"]),
        )
    return _noted(table, [row["name"] for row in results["methods"]])


def comparison_table(runs: dict[str, dict[str, Any]]) -> Table:
    """Several runs side by side, a row for each method: accuracy in percent and its 95 % interval.

    Args:
        runs: Name of each run, and the content of its results.json.
    """
    table = _table()
    for name in runs:
        table.add_column(Text(name), justify="right")
    found = [{row["name"]: row for row in results["methods"]} for results in runs.values()]
    names = [name for name in METHODS if any(name in rows for rows in found)]
    for name in names:
        cells = [
            f"{100 * rows[name]['accuracy']:.1f} ({_interval(rows[name])})" if name in rows else "–" for rows in found
        ]
        table.add_row(_name(name), *cells)
    return _noted(table, names)


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", caption_justify="left")
    table.add_column("method")
    return table


def _interval(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _name(name: str) -> Text:
    return Text(f"{name} *", style="dim") if is_oracle(name) else Text(name)


def _noted(table: Table, names: list[str]) -> Table:
    if any(is_oracle(name) for name in names):
        table.caption = "* oracle: told at test time what no user could know"
    return table
