"""The report page: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from kard.report import numbers
from kard.report.data import ReportData
from kard.report.plots import Line, axis_range, cost_chart, curves_chart, hits_chart, hits_legend, methods_chart
from kard.report.templates import render

# Drawn width of the charts in CSS pixels, by the class of the stylesheet that shows them.
WIDTHS = {"wide": 704, "narrow": 340}
_SHARES = [f"{share}" for share in range(10, 101, 10)]
_PARTS = [f"{middle}" for middle in range(5, 100, 10)]


def render_page(data: ReportData) -> str:
    """The HTML of a report; every text of the run is escaped."""
    results = data.results
    best = numbers.best_method(results["methods"])["name"]
    against = min((row["against"] for row in results["retrieval"]), default="")  # by name: gold, silver, silver_top_3
    shown_hits = [row for row in results["retrieval"] if row["against"] == against]
    low, high = axis_range(results["methods"])
    sure = results.get("confidence", [])
    stages = [stage["seconds"] for stage in results["stages"]]
    return render(
        "page.html.jinja",
        data=data,
        results=results,
        best=best,
        headline=numbers.headline(results),
        axis=f"The axis goes from {low} to {high} %.",
        methods_charts=in_all_widths(lambda width: methods_chart(results["methods"], best, width)),
        shown_hits=shown_hits,
        found_by=numbers.retriever(shown_hits[0]["name"]) if shown_hits else "retriever",
        reranking=numbers.reranking(shown_hits),
        hits_charts=in_all_widths(lambda width: hits_chart(shown_hits, width)) if shown_hits else {},
        legend=hits_legend(shown_hits),
        leaking=[kind for kind in ("train", "passages") if results.get("leaks", {}).get(kind, {}).get("loud")],
        cost_charts=in_all_widths(lambda width: cost_chart(results, best, width)) if results.get("costs") else {},
        risk_charts=in_all_widths(lambda width: curves_chart(_SHARES, risk_lines(sure, best), width, "risk"))
        if sure
        else {},
        reliability_charts=(
            in_all_widths(lambda width: curves_chart(_PARTS, reliability_lines(sure, best), width, "reliability"))
            if sure
            else {}
        ),
        total_seconds=sum(stages),
        longest_stage=max(stages, default=0.0),
        asked=sum(row["count"] for row in data.rationales),
    )


def risk_lines(rows: Sequence[dict[str, Any]], best: str) -> list[Line]:
    """The share of wrong answers among the surest ones of each method, by how many are given."""
    return [
        Line(
            numbers.short_label(row["method"]), [at["risk"] for at in row["curve"]], [None] * 10, row["method"] == best
        )
        for row in rows
    ]


def reliability_lines(rows: Sequence[dict[str, Any]], best: str) -> list[Line]:
    """How often answers of a confidence are right, of each method, and how often they should be."""
    lines = [Line("as promised", [0.05 + place / 10 for place in range(10)], [None] * 10, hollow=True)]
    for row in rows:
        intervals = [part["ci95"] if row["method"] == best else None for part in row["bins"]]
        accuracies = [part["accuracy"] for part in row["bins"]]
        lines.append(Line(numbers.short_label(row["method"]), accuracies, intervals, row["method"] == best))
    return lines


def in_all_widths(chart: Callable[[int], str]) -> dict[str, Markup]:
    """A chart for each size of window, by the class of the stylesheet that shows it."""
    return {size: Markup(chart(width)) for size, width in WIDTHS.items()}
