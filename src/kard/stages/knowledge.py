"""knowledge: passages as JSONL, and what was left out."""

from __future__ import annotations

from pathlib import Path

from kard.data.passages import described, make_passages
from kard.data.sources import remember_sources
from kard.data.splits import SPLITS
from kard.progress import say
from kard.run import Run


def make_knowledge(run: Run, folder: Path) -> None:
    """Read the recipe's documents and cut them into passages."""
    section, gold = run.recipe.knowledge, set()
    if section.distractors == "rest":
        gold = {name for split in SPLITS for question in run.questions(split) for name in question.gold_passages}
    report = make_passages(section, folder, gold, run.recipe.seed_of_data)
    remember_sources(section, folder)
    say(f"  {report['passages']:,} passages from {report['documents']:,} documents")
    for line in described(report):
        say(f"  {line}")
    if drawn := report.get("distractors"):
        say(f"  {drawn['drawn']:,} of {drawn['of']:,} distractors behind {drawn['base']:,} passages")
