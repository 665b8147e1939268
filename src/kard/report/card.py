"""The model card: what the student is, what it was measured at, and where it must not be trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from kard.methods import METHODS
from kard.recipe.recipe import Recipe
from kard.recipe.sections import RerankerSection
from kard.report import numbers
from kard.report.data import ReportData
from kard.report.templates import render


def render_card(data: ReportData) -> str:
    """The Markdown of a model card, with the front matter that model hubs read."""
    recipe = Recipe.model_validate(yaml.safe_load(data.recipe_yaml))
    return render(
        "card.md.jinja",
        recipe=recipe,
        reranked=any(METHODS[row["name"]].reads == "reranker" for row in data.results["methods"]),
        headline=" ".join(numbers.headline(data.results)),
        results=data.results,
        kept=sum(row["count"] for row in data.rationales if row["status"] == "kept"),
        asked=sum(row["count"] for row in data.rationales),
        teacher=in_markdown(data.teacher),
        credits=[in_markdown(credit) for credit in data.credits],
        dataset=in_markdown(data.results["dataset"]),
        name=in_markdown(data.results["recipe"]),
    )


def render_reranker_card(section: RerankerSection, rows: Sequence[dict[str, Any]], from_file: bool = False) -> str:
    """The Markdown of a reranker's own card: how to load it, how it was trained, and how it ranks.

    Args:
        section: The recipe's ``reranker``.
        rows: What `evaluate_ranking` returns; may be empty.
        from_file: It learned from candidates with scores of somebody's own, not from rationales.
    """
    shown = [row for row in rows if row["against"] == rows[0]["against"]]
    is_folder = Path(section.model).is_dir()
    return render(
        "reranker.md.jinja",
        section=section,
        model=Path(section.model).name if is_folder else section.model,
        is_on_hub=not is_folder and not section.model.startswith("package:"),
        from_file=from_file,
        rows=rows,
        verdict=in_markdown(numbers.reranking(shown)),
    )


def in_markdown(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))


def write_reranker_card(
    folder: Path, section: RerankerSection, rows: Sequence[dict[str, Any]], from_file: bool = False
) -> None:
    """The card beside the reranker's weights; arguments as of `render_reranker_card`."""
    (folder / "README.md").write_text(render_reranker_card(section, rows, from_file), encoding="utf-8")
