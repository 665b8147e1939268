"""`kard questions export`: a run's questions as an ordinary file, as people have decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kard.artifacts.files import write_jsonl
from kard.artifacts.folders import check_stages
from kard.data.reviews import Item, default_decisions, final, mended, read_decisions
from kard.data.splits import SPLITS
from kard.errors import UserError
from kard.run import Run


def export_questions(
    run: Path, file: Path, decisions: Path | None = None, split: str | None = None, reviewed: bool = False
) -> dict[str, int]:
    """Write the questions of a run that people accepted or mended, and, unless they were rejected, those that it kept.

    Args:
        run: A run whose questions are made.
        file: JSONL, in the format that the jsonl reader takes.
        decisions: What `kard review` wrote; None: the file beside the run, if there is one.
        split: ``train``, ``dev`` or ``test`` alone.
        reviewed: Only what was accepted or mended.

    Returns:
        How many were ``written``, and how many were not, by reason.

    Raises:
        UserError: The file is there already or cannot be written, there are no decisions, or no question is left.
    """
    check_stages(run)
    if file.exists() or not file.parent.is_dir():
        raise UserError(f"{file}: is there already, or its folder is not. Name a new file in a folder that is there.")
    if split not in (None, *SPLITS):
        raise UserError(f"--split {split}: no such split. Choose of {', '.join(SPLITS)}.")
    path = decisions or default_decisions(run)
    if not path.exists() and (decisions or reviewed):
        raise UserError(f"{path}: no such file. Decide first: kard review {run}")
    opened = Run.open(run)
    decided = final(read_decisions(path)) if path.exists() else {}
    wanted = {one.id for one in opened.questions(split)} if split else None
    left: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for item in opened.items():
            row = decided.get(item.id)
            decision = row["decision"] if row else "none"
            if wanted is not None and item.id not in wanted:
                left[f"not in {split}"] += 1
            elif decision == "reject":
                left["rejected"] += 1
            elif decision == "none" and reviewed:
                left["not decided"] += 1
            elif decision == "none" and item.status != "kept":
                left[item.status] += 1
            elif item.answer is None:
                left["without an answer"] += 1
            else:
                yield _row(mended(item, row) if row else item)

    found = list(rows())
    if not found:
        raise UserError(f"{run}: no question is left to write ({', '.join(left)}). Accept some: kard review {run}")
    partial = file.with_name(f"{file.name}.partial")
    write_jsonl(partial, found)
    partial.replace(file)
    if unknown := len(decided.keys() - {item.id for item in opened.items()}):
        left["decisions on questions that this run does not have"] = unknown
    return {"written": len(found), **left}


def _row(item: Item) -> dict[str, Any]:
    row = {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}
    return {**row, "rationales": [item.rationale] if item.rationale else [], "gold_passages": list(item.passages)}
