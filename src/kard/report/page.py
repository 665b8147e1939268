"""The report page: one HTML file that needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bm25s.stopwords import STOPWORDS_EN_PLUS
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from kard.data.normal import UNSEEN, folded
from kard.progress import duration
from kard.report import numbers
from kard.report.data import ReportData
from kard.report.glossary import GLOSSARY, anchor, marked
from kard.report.plots import axis_range, cost_chart, hits_chart, hits_legend, methods_chart

_WORDS = rf"[\w{UNSEEN}]+"
# Drawn width of the charts in CSS pixels, by the class of the stylesheet that shows them.
WIDTHS = {"wide": 704, "narrow": 340}


def render_page(data: ReportData) -> str:
    """The HTML of a report; every text of the run is escaped."""
    results = data.results
    best = numbers.best_method(results["methods"])["name"]
    shown_hits = _against_gold_if_any(results["retrieval"])
    low, high = axis_range(results["methods"])
    return render(
        "page.html.jinja",
        autoescape=True,
        data=data,
        results=results,
        best=best,
        headline=numbers.headline(results),
        axis=f"The axis goes from {low} to {high} %.",
        methods_charts={size: Markup(methods_chart(results["methods"], best, px)) for size, px in WIDTHS.items()},
        shown_hits=shown_hits,
        found_by=numbers.retriever(shown_hits[0]["name"]) if shown_hits else "retriever",
        reranking=numbers.reranking(shown_hits),
        hits_charts={size: Markup(hits_chart(shown_hits, px)) for size, px in WIDTHS.items() if shown_hits},
        legend=hits_legend(shown_hits),
        leaking=[kind for kind in ("train", "passages") if results.get("leaks", {}).get(kind, {}).get("loud")],
        cost_charts={
            size: Markup(cost_chart(results, best, px)) for size, px in WIDTHS.items() if results.get("costs")
        },
        total_seconds=sum(stage["seconds"] for stage in results["stages"]),
        longest_stage=max((stage["seconds"] for stage in results["stages"]), default=0.0),
        asked=sum(row["count"] for row in data.rationales),
    )


def render(template: str, *, autoescape: bool, **values: Any) -> str:
    """Fill a template of this folder; a name that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("kard", "report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": numbers.percent,
        "percent_interval": numbers.percent_interval,
        "points": numbers.points,
        "points_interval": numbers.points_interval,
        "p_value": numbers.p_value,
        "label": numbers.label,
        "short_label": numbers.short_label,
        "retriever": numbers.retriever,
        "duration": duration,
        "operations": numbers.operations,
        "plain": numbers.plain,
        "setting": numbers.setting,
        "mean_and_spread": numbers.mean_and_spread,
        "verdict": numbers.verdict,
        "highlight": highlight,
    }
    environment.filters |= {"anchor": anchor, "marked": marked, "contents": contents}
    environment.globals["glossary"] = GLOSSARY
    environment.tests |= {"oracle": numbers.is_oracle, "significant": lambda p: p < numbers.SIGNIFICANT}
    return environment.get_template(template).render(values)


def contents(sections: str) -> list[tuple[str, Markup]]:
    """Place and text of the headings of some sections; the texts of a run are escaped, so they cannot look like one."""
    return [(place, Markup(text)) for place, text in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', sections)]


def highlight(text: str, rationale: str) -> Markup:
    """The escaped text, with the words that the rationale shares with it (stop words aside) marked."""
    shared = _content_words(rationale)
    pieces = (
        Markup("<mark>{}</mark>").format(piece) if folded(piece) in shared else escape(piece)
        for piece in re.split(f"({_WORDS})", text)
    )
    # Neighbours become one mark. Only our own tags can match: those of the text were escaped.
    return Markup(Markup("").join(pieces).replace("</mark> <mark>", " "))


def _content_words(text: str) -> set[str]:
    return {folded(word) for word in re.findall(_WORDS, text)} - set(STOPWORDS_EN_PLUS)


def _against_gold_if_any(retrieval: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    first = min((row["against"] for row in retrieval), default="")  # by name: gold, silver, silver_top_3
    return [row for row in retrieval if row["against"] == first]
