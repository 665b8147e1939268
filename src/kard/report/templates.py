"""The one Jinja environment: report, sweep, model cards and the server's pages, with the filters that they share."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from bm25s.stopwords import STOPWORDS_EN_PLUS
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from kard.citations import pieces
from kard.data.normal import UNSEEN, folded
from kard.progress import duration
from kard.report import numbers
from kard.report.glossary import GLOSSARY, anchor, marked

_WORDS = rf"[\w{UNSEEN}]+"


def render(template: str, **values: Any) -> str:
    """Fill a template of ``report`` or ``serving``; in HTML every value is escaped, and a name that is not given is an error."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("kard", "report"), PackageLoader("kard", "serving")]),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (
        *(numbers.percent, numbers.percent_interval, numbers.points, numbers.points_interval, numbers.p_value),
        *(numbers.label, numbers.short_label, numbers.retriever, numbers.operations, numbers.plain, numbers.setting),
        *(numbers.mean_and_spread, numbers.verdict, duration, highlight, contents, anchor, marked, pieces),
    )
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals["glossary"] = GLOSSARY
    environment.tests |= {"oracle": numbers.is_oracle, "significant": lambda p: p < numbers.SIGNIFICANT}
    return environment


def contents(sections: str) -> list[tuple[str, Markup]]:
    """Place and text of the headings of some sections; the texts of a run are escaped, so they cannot look like one."""
    return [(place, Markup(text)) for place, text in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', sections)]


def highlight(text: str, rationale: str) -> Markup:
    """The escaped text, with the words that the rationale shares with it (stop words aside) marked."""
    shared = {folded(word) for word in re.findall(_WORDS, rationale)} - set(STOPWORDS_EN_PLUS)
    parts = (
        Markup("<mark>{}</mark>").format(part) if folded(part) in shared else escape(part)
        for part in re.split(f"({_WORDS})", text)
    )
    # Neighbours become one mark. Only our own tags can match: those of the text were escaped.
    return Markup(Markup("").join(parts).replace("</mark> <mark>", " "))
