"""knowledge: passages as JSONL, and what was left out."""

from __future__ import annotations

from pathlib import Path

from kard.data.passages import described, make_passages
from kard.data.sources import remember_sources
from kard.progress import say
from kard.run import Run


def make_knowledge(run: Run, folder: Path) -> None:
    """Read the recipe's documents and cut them into passages."""
    section = run.recipe.knowledge
    report = make_passages(section, folder)
    remember_sources(section, folder)
    say(f"  {report['passages']:,} passages from {report['documents']:,} documents")
    for line in described(report):
        say(f"  {line}")
