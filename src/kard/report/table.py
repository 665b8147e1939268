"""The results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kard.methods import METHODS
from kard.progress import duration
from kard.report import numbers
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
    warning = results.get("generated", {}).get("warning", "")
    return _noted(table, [row["name"] for row in results["methods"]], warning)


def comparison_tables(several: dict[str, Any]) -> list[Table | Text]:
    """Settings side by side, each with its seeds: accuracies, what changes against the first, and what was not compared.

    Args:
        several: What `kard.evaluation.several.side_by_side` returns, or the content of a sweep.json.
    """
    settings = several["settings"]
    names = [name for name in METHODS if any(row["name"] == name for setting in settings for row in setting["methods"])]
    accuracies = _with_columns(settings)
    for name in names:
        cells = [next((row for row in setting["methods"] if row["name"] == name), None) for setting in settings]
        accuracies.add_row(_name(name), *(_mean_and_spread(cell) if cell else "–" for cell in cells))
    tables: list[Table | Text] = [_about(several), _noted(accuracies, names)]
    if several["changes"]:
        about = "Change against the first, points; p over questions and seeds (Holm). A tie: they are not told apart."
        tables += [Text(about), _changes_table(several)]
    return [*tables, *(Text(f"Note: {note}") for note in several["notes"])]


def _about(several: dict[str, Any]) -> Text:
    """What is in the cells, and what the numbers were made with where that is the same for all."""
    known = [setting["environment"] for setting in several["settings"]]
    same = all(environment == known[0] for environment in known)
    environment = numbers.plain(known[0]) if same else "environments differ, see each run's results.json"
    return Text(f"Accuracy %, ± standard deviation over seeds, (95 % interval). {environment}")


def _with_columns(settings: Sequence[dict[str, Any]]) -> Table:
    table = _table()
    for setting in settings:
        values = [f"{key}: {value}" for key, value in setting["values"].items()]
        seeds = f"{len(setting['seeds'])} seeds" if len(setting["seeds"]) > 1 else f"seed {setting['seeds'][0]}"
        head = [numbers.shortened(", ".join(setting["runs"])), *map(numbers.shortened, values)]
        table.add_column(Text("\n".join([*head, f"{seeds}, n {setting['n']:,}"])), justify="right")
    return table


def _mean_and_spread(row: dict[str, Any]) -> str:
    parts = [numbers.mean_and_spread(row), f"({_interval(row)})" if row["ci95"] else ""]
    unparsed = f"{row['unparsed']} unparsed" if row["unparsed"] else ""
    return "\n".join(part for part in (" ".join(filter(None, parts)), unparsed) if part)


def _changes_table(several: dict[str, Any]) -> Table:
    settings = several["settings"]
    table = _with_columns(settings[1:])
    rows = {(row["method"], row["setting"]): row for row in several["changes"]}
    for name in [name for name in METHODS if any(method == name for method, _ in rows)]:
        cells = [rows.get((name, place)) for place in range(1, len(settings))]
        table.add_row(_name(name), *(numbers.change(cell) if cell else "–" for cell in cells))
    return table


def _table() -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, title_justify="left", caption_justify="left")
    table.add_column("method")
    return table


def _interval(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{100 * low:.1f}–{100 * high:.1f}"


def _name(name: str) -> Text:
    return Text(f"{name} *", style="dim") if is_oracle(name) else Text(name)


def _noted(table: Table, names: list[str], warning: str = "") -> Table:
    oracle = "* oracle: told at test time what no user could know" if any(map(is_oracle, names)) else ""
    table.caption = Text("\n".join(filter(None, (oracle, warning)))) if oracle or warning else None
    return table
