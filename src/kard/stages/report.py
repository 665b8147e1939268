"""report: results.json, the page and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kard.artifacts.files import write_jsonl
from kard.artifacts.folders import Artifact
from kard.evaluation.results import build_results
from kard.report.sheet import write_sheet
from kard.run import Run


def make_report(run: Run, done: Sequence[Artifact], folder: Path) -> None:
    """Measure the predictions, and write what they show; `done` are the stages before, for their times."""
    results, mistakes = build_results(run, done)
    write_jsonl(folder / "mistakes.jsonl", mistakes)
    write_sheet(run, results, mistakes, folder)
