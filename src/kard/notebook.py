"""Answers as notebooks show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from kard.citations import with_marks

if TYPE_CHECKING:
    from kard.kard import Answer

ADDRESS = re.compile(r"""(https?://[^\s<>"]*[^\s<>",])""")  # in a source, which may go on with a comma and a place


def answer_html(answer: Answer) -> str:
    """Answer, confidence, rationale and passages as HTML; every text of theirs is escaped, and addresses of sources are links."""
    said = "not sure enough to answer" if answer.abstained else answer.answer or "no answer could be read off"
    sure = "" if answer.confidence is None else f"{percent(answer.confidence)} sure ({meaning(answer)})"
    why = with_marks(answer.rationale, answer.citations)
    row = Markup("<li><b>{}</b> {}<br><small>{}</small></li>")
    read = [(found.passage.title, found.passage.text, linked(found.passage.source)) for found in answer.passages]
    passages = Markup("<ol>{}</ol>").format(Markup("").join(row.format(*parts) for parts in read)) if read else ""
    return str(Markup("<p><b>{}</b> <small>{}</small></p><p>{}</p>{}").format(said, sure, why, passages))


def percent(confidence: float) -> str:
    """A confidence in words; it is never called certain."""
    return "over 99 %" if confidence > 0.99 else f"{100 * confidence:.0f} %"


def meaning(answer: Answer) -> str:
    """What an answer's confidence is worth, in words."""
    if answer.threshold is None:
        return "not calibrated"
    if not answer.abstained:
        return "calibrated"
    return (
        f"answers are given from {percent(answer.threshold)} on"
        if answer.threshold <= 1
        else "no answer is sure enough"
    )


def linked(source: str) -> Markup:
    """A source whose web address, if it has one, is a link."""
    link = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    parts = ADDRESS.split(source)
    return Markup("").join(link.format(part) if place % 2 else escape(part) for place, part in enumerate(parts))
