"""The report's files: one HTML page and a model card."""

from __future__ import annotations

from pathlib import Path

from kard.report.data import ReportData


def write_report(folder: Path, data: ReportData) -> None:
    """Write ``index.html`` and ``model_card.md`` into `folder`, which is made where it is missing.

    The same data gives the same bytes.
    """
    from kard.report.card import render_card
    from kard.report.page import render_page

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("index.html", render_page(data)), ("model_card.md", render_card(data))):
        with open(folder / name, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
