"""A run's questions as people review them, and as an ordinary file, as they have decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kard.artifacts.files import read_jsonl, write_jsonl
from kard.artifacts.folders import check_stages, manifest_of
from kard.data.reviews import Item, default_decisions, final, item_from_row, mended, read_decisions
from kard.data.splits import SPLITS
from kard.errors import UserError
from kard.run import Run


def items_of(run: Run) -> list[Item]:
    """What people may review: all generated questions, kept or not; or, where none were generated, the questions of all splits,
    each with its first rationale that was kept.

    Raises:
        UserError: The run's questions are not made yet.
    """
    generated = run.finished("questions") / "generated.jsonl"
    if generated.exists():
        return [item_from_row(row) for row in read_jsonl(generated)]
    explained = reversed(run.rationales() if manifest_of(run.folder / "rationales") is not None else [])
    texts = {one.question: one.text for one in explained if one.status == "kept"}
    return [
        Item(one.id, split, one.question, one.choices, one.answer, one.gold_passages, rationale=texts.get(one.id, ""))
        for split in SPLITS
        for one in run.questions(split)
    ]


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
    items = items_of(opened)
    decided = final(read_decisions(path)) if path.exists() else {}
    wanted = {one.id for one in opened.questions(split)} if split else None
    left: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for item in items:
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
    if unknown := len(decided.keys() - {item.id for item in items}):
        left["decisions on questions that this run does not have"] = unknown
    return {"written": len(found), **left}


def _row(item: Item) -> dict[str, Any]:
    row = {"id": item.id, "question": item.question, "choices": list(item.choices), "answer": item.answer}
    return {**row, "rationales": [item.rationale] if item.rationale else [], "gold_passages": list(item.passages)}
