"""A run whose questions and passages are there, and nothing else: no model is needed to review it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kard.artifacts.files import write_jsonl
from kard.artifacts.folders import build, open_run
from kard.data.passage import Passage, write_passages
from kard.data.question import Question, write_questions
from kard.recipe.file import dump_recipe
from kard.recipe.recipe import Recipe
from kard.teacher.rationale import Rationale, write_rationales

STATUSES = ("kept", "kept", "not_answered", "gives_itself_away")


def generated(count: int) -> list[dict]:
    """Rows as the stage that generates questions writes them: every fourth one open, every eighth one without an answer."""
    rows = []
    for number in range(count):
        choices = [] if number % 4 == 3 else ["red", f"green {number}", "blue"]
        answer = 1 if choices else None if number % 8 == 7 else f"green {number}"
        status = STATUSES[number % len(STATUSES)]
        rows.append(
            {
                "id": f"g/{number} ü",
                "kind": "choice" if choices else "open",
                "question": f"Which colour has ship {number}?",
                "choices": choices,
                "answer": answer,
                "passages": [f"p{number % 50}"],
                "documents": [f"p{number % 50}"],
                "status": status,
                "reason": "" if status == "kept" else f"status {status}, in words",
                "rationale": "" if number % 5 == 4 else f"Ship {number} was painted green {number}.",
            }
        )
    return rows


def make_run(folder: Path, rows: Sequence[dict] = (), questions: dict[str, list[Question]] | None = None) -> Path:
    """A run with generated questions, or with ordinary ones, the first of which is explained."""
    run = folder / "run"
    open_run(run)
    recipe = Recipe.model_validate({"questions": {"path": "q.jsonl"}, "knowledge": {"path": "p.jsonl"}})
    (run / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")

    def questions_into(target: Path) -> None:
        for split in ("train", "dev", "test"):
            write_questions(target / f"{split}.jsonl", (questions or {}).get(split, []))
        if rows:
            write_jsonl(target / "generated.jsonl", rows)

    def knowledge_into(target: Path) -> None:
        texts = ((f"p{number}", f"The ship was painted green {number}. It sails.") for number in range(50))
        write_passages(
            target / "passages.jsonl", (Passage(n, f"Ships {n}", text, n, f"ships.txt, {n}") for n, text in texts)
        )

    def rationales_into(target: Path) -> None:
        first = (questions or {"train": []})["train"][:1]
        tried = [(one.id, number, status) for one in first for number, status in enumerate(("leak", "kept"))]
        made = [Rationale(f"{name}/{number}", name, f"Because {number}.", status) for name, number, status in tried]
        write_rationales(target / "rationales.jsonl", made)

    for name, make in (("questions", questions_into), ("knowledge", knowledge_into), ("rationales", rationales_into)):
        build(name, run / name, {"stage": name}, make)
    return run
