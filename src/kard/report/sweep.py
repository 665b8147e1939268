"""The page of a sweep: one HTML file with the curves, the table and the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from kard.methods import METHODS
from kard.report import numbers
from kard.report.page import in_all_widths
from kard.report.plots import Line, curves_chart
from kard.report.templates import render

_DEPTHS = ("1", "10")


@dataclass(frozen=True)
class Figure:
    """A chart in all widths, its caption, and what a screen reader says."""

    caption: str
    charts: dict[str, Markup]
    spoken: str


def render_sweep(results: dict[str, Any]) -> str:
    """The HTML of a sweep; the same ``sweep.json`` gives the same bytes."""
    settings = results["settings"]
    best = best_of(settings)
    known = [setting["environment"] for setting in settings]
    return render(
        "sweep.html.jinja",
        results=results,
        settings=settings,
        best=best,
        changed=next((row for row in results["changes"] if (row["method"], row["setting"]) == best), None),
        accuracy_figures=list(_accuracy_figures(results, best[0])),
        hits_figures=list(_hits_figures(results)),
        environments=list({numbers.plain(environment): None for environment in known}),
        rankers=_SHORT,
        mixed=any(setting["environment_differs"] for setting in settings),
    )


def best_of(settings: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """The most accurate method that a user could use, and in which setting; the first one where several are."""
    usable = [
        (row["accuracy"], row["name"], place)
        for place, setting in enumerate(settings)
        for row in setting["methods"]
        if not METHODS[row["name"]].is_oracle
    ] or [(row["accuracy"], row["name"], place) for place, setting in enumerate(settings) for row in setting["methods"]]
    _, name, place = max(usable, key=lambda item: (item[0], -item[2]))
    return name, place


def _accuracy_figures(results: dict[str, Any], stressed: str) -> Iterator[Figure]:
    names = [name for name in METHODS if any(_row(setting, name) for setting in results["settings"])]

    def lines(settings: Sequence[dict[str, Any]]) -> list[Line]:
        return [_line(name, [_row(setting, name) for setting in settings], name == stressed) for name in names]

    yield from _panels(
        results, lines, "Accuracy over {axis}; lines are 95 % intervals, dashed methods are oracles{rest}."
    )


def _line(name: str, rows: Sequence[dict[str, Any] | None], stressed: bool) -> Line:
    shares = [row["accuracy"] if row else None for row in rows]
    intervals = [row["ci95"] if row else None for row in rows]
    return Line(numbers.short_label(name), shares, intervals, stressed, METHODS[name].is_oracle)


def _row(setting: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((row for row in setting["methods"] if row["name"] == name), None)


def _hits_figures(results: dict[str, Any]) -> Iterator[Figure]:
    """Hits@1 and @10 of each ranker, where they are not the same in all settings."""
    kinds = {row["against"] for setting in results["settings"] for row in setting["retrieval"]}
    against = "gold" if "gold" in kinds else "silver"
    names = [name for name in _SHORT if any(_hits(setting, name, against) for setting in results["settings"])]
    for depth in _DEPTHS:

        def lines(settings: Sequence[dict[str, Any]], depth: str = depth) -> list[Line]:
            rows = [[_hits(setting, name, against) for setting in settings] for name in names]
            shares = [[row["hits"][depth] if row else None for row in of_name] for of_name in rows]
            return [
                Line(_SHORT[name], own, [None] * len(own), name == "reranker", name == "retriever")
                for name, own in zip(names, shares, strict=True)
            ]

        if any(len(set(line.shares)) > 1 for line in lines(results["settings"])):
            yield from _panels(results, lines, f"Hits@{depth} against {against} passages over {{axis}}{{rest}}.")


_SHORT = {
    "retriever": "retriever",
    "reranker_untrained": "untrained",
    "reranker": "reranker",
    "reranker_features": "with score features",
    "reranker_likelihood": "second look",
}


def _hits(setting: dict[str, Any], name: str, against: str) -> dict[str, Any] | None:
    rows = (row for row in setting["retrieval"] if row["name"] == name and row["against"] == against)
    return next(rows, None)


def _panels(
    results: dict[str, Any], lines: Callable[[Sequence[dict[str, Any]]], list[Line]], caption: str
) -> Iterator[Figure]:
    """A chart over the first axis for every combination of the others; none where nothing is varied."""
    if not results["axes"]:
        return
    axis, *_ = results["axes"]
    others: dict[str, list[dict[str, Any]]] = {}
    for setting in results["settings"]:
        rest = numbers.setting({key: value for key, value in setting["values"].items() if key != axis})
        others.setdefault(rest if len(results["axes"]) > 1 else "", []).append(setting)
    for rest, settings in others.items():
        values = [numbers.shortened(numbers.value_of(setting["values"][axis]), 14) for setting in settings]
        drawn = lines(settings)
        text = caption.format(axis=axis.replace(",", " and "), rest=f", with {rest}" if rest else "")
        charts = in_all_widths(partial(curves_chart, values, drawn, salt=text))
        yield Figure(text, charts, f"{text} {_spoken(values, drawn)}")


def _spoken(values: Sequence[str], lines: Sequence[Line]) -> str:
    said = (
        f"{line.name}: "
        + ", ".join(
            f"{value} {numbers.percent(share)}"
            for value, share in zip(values, line.shares, strict=True)
            if share is not None
        )
        for line in lines
    )
    return "; ".join(said) + "."
