"""questions, where the teacher makes them: drawn, asked, judged, and split by document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kard.artifacts.files import write_json
from kard.data.draw import Draw, draw
from kard.data.question import Question
from kard.data.splits import SPLITS
from kard.errors import UserError
from kard.progress import say
from kard.run import Run
from kard.stages.rationales import teacher_models
from kard.teacher.generate import Generation, balanced, generate_questions
from kard.teacher.generated import Generated, write_generated
from kard.teacher.rationale import counts_of
from kard.teacher.reviewed import reviewed

_ADVICE = {
    "unparsable": "ask a larger teacher.model, or set teacher.endpoint: completions for a base model",
    "round_trip": "ask a larger teacher.model",
    "known_by_heart": "set questions.keep_known: true where it may know the documents",
    "truncated": "raise teacher.max_tokens",
    "error": "{reason}",
}


def generation_of(run: Run) -> tuple[Generation, Draw]:
    """What the teacher is asked for questions, and how the passages were drawn."""
    section, seed, passages = run.recipe.questions, run.recipe.seed_of_data, run.passages()
    drawn = draw(passages, {name: size or 0 for name, size in section.sizes.items()}, section.kinds, seed)
    return Generation(drawn.items, passages, section, run.recipe.teacher, seed), drawn


def make_generated(run: Run, folder: Path) -> dict[str, list[Question]]:
    """Let the teacher ask questions about the documents.

    Writes:
        ``generated.jsonl``, every question with its status and reason, and ``generated.json``, what is said of all of them.

    Returns:
        The kept questions of train, dev and test; those without an answer stay in ``generated.jsonl``.

    Raises:
        UserError: None was kept for training or test.
    """
    generation, drawn = generation_of(run)
    for line in _about(drawn, sum(filter(None, run.recipe.questions.sizes.values()))):
        say(f"  {line}")
    made = generate_questions(generation, run.folder / "teacher.sqlite", teacher_models(run.recipe).write)
    if (decisions := run.recipe.questions.reviewed) is not None:
        made = reviewed(made, decisions)
    made = balanced(made, generation.seed)
    write_generated(folder / "generated.jsonl", made)
    summary: dict[str, Any] = {"asked": len(made), "statuses": counts_of(made), "documents": dict(drawn.documents)}
    write_json(folder / "generated.json", summary | {"stretch": drawn.stretch, "unfit": dict(drawn.unfit)})
    for row in summary["statuses"]:
        say(f"  {row['count']:>6,} {row['status']}{': ' + row['reason_example'] if row['reason_example'] else ''}")
    kept = [one for one in made if one.status == "kept" and one.kind != "unanswerable"]
    for name in ("train", "test"):
        if not any(one.split == name for one in kept):
            raise UserError(f"questions: none was kept for {name}. {_why(made)}")
    return {name: [one.as_question() for one in kept if one.split == name] for name in SPLITS}


def _about(drawn: Draw, wanted: int) -> Iterator[str]:
    by = f"stretches of {drawn.stretch} passages" if drawn.stretch else "documents"
    parts = ", ".join(f"{name} {count:,}" for name, count in drawn.documents.items() if count)
    yield f"{len(drawn.items):,} questions about {by} ({parts}), none of which serves two splits"
    if len(drawn.items) < wanted:
        yield f"{wanted:,} were wanted: every passage has had every kind of question. Add documents or questions.kinds"
    if drawn.unfit:
        said = ", ".join(f"{count:,} {reason}" for reason, count in Counter(drawn.unfit).most_common())
        yield f"passages that nobody can ask about: {said}"


def _why(made: Sequence[Generated]) -> str:
    """How many questions were rejected for what, and what to do."""
    lines = []
    for row in counts_of(made):
        advice = _ADVICE.get(row["status"], "").format(reason=row["reason_example"])
        lines.append(f"{row['count']:,} {row['status']}{': ' + advice if advice else ''}")
    return f"{'; '.join(lines)}. Read them with 'kard show RUN questions', or raise questions.train_size and test_size."
