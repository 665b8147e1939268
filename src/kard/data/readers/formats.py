"""Questions and documents in the formats of others: which reader takes a kind, and what is said of a row that does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kard.data.question import Question
from kard.data.readers import chat, hotpotqa, hub, medqa, squad, strategyqa, table
from kard.data.readers.documents import Document, LeftOut
from kard.data.readers.foreign import is_saved, looks_like
from kard.data.readers.jsonl import read_question_files
from kard.data.readers.records import Records, records, saved_records, saved_splits
from kard.data.readers.rows import Row
from kard.data.splits import as_published, numbered
from kard.errors import UserError
from kard.progress import say
from kard.recipe.sections import QuestionsSection

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet")  # of files whose documents come with questions
_DOCUMENTS: dict[str, Callable[[Row, str], Iterable[Document]]] = {
    "squad": squad.documents,
    "hotpotqa": hotpotqa.documents,
    "strategyqa": strategyqa.documents,
}
# The splits of a saved folder that are read, with our names.
_SPLITS = {"train": "train", "validation": "dev", "valid": "dev", "val": "dev", "dev": "dev", "test": "test"}


def read_formats(section: QuestionsSection, seed: int) -> dict[str, list[Question]]:
    """Train, dev and test of the recipe's files, which are of its kind.

    A folder that datasets saved keeps its own split, if it has several.

    Raises:
        UserError: A file cannot be read, or a row does not fit, with file and line.
    """
    path = section.path
    if path is None or not is_saved(path) or len(found := saved_splits(path)) == 1:
        return read_question_files(section, seed, lambda file, split: _questions(section, file, records(file), split))
    if others := [name for name in found if name not in _SPLITS]:
        say(f"  {path}: splits that are not read: {', '.join(others)}")
    splits: dict[str, list[Question]] = {"train": [], "dev": [], "test": []}
    for name in (name for name in _SPLITS if name in found):
        splits[_SPLITS[name]] += _questions(section, path, saved_records(path, name, found[name]), _SPLITS[name])
    return as_published(splits, section, seed, str(path))


def format_documents(path: Path, left_out: LeftOut, kind: str, seen: dict[str, str]) -> Iterator[Document]:
    """Documents that come with questions, each once.

    Args:
        path: A file of the kind, or a folder that datasets saved.
        left_out: Gets those whose name another text has.
        kind: ``squad``, ``hotpotqa`` or ``strategyqa``.
        seen: Texts by name, of the files before; those of this one are added.
    """
    for source, where, row in records(path):
        with _explained(where, "knowledge", kind, row):
            documents = list(_DOCUMENTS[kind](row, source))
        for document in documents:
            if document.id not in seen:
                seen[document.id] = document.text
                yield document
            elif seen[document.id] != document.text:
                left_out.add("same_title", source, f"another text is called '{document.id}' already")


def _questions(section: QuestionsSection, path: Path, rows: Records, split: str) -> list[Question]:
    """Questions of rows, in their order; what is left out is said."""
    questions: dict[str, Question] = {}
    left: Counter[str] = Counter()
    held = list(rows) if section.kind == "table" else rows
    layout = _layout(section, path, [row for _, _, row in held]) if section.kind == "table" else None
    for source, where, row in held:
        with _explained(where, "questions", section.kind, row):
            read = list(_read(section.kind, row, source, where, left, layout))
        for question in read:
            if question.id in questions:
                raise UserError(f"{where}: id '{question.id}' is there before. Give every question its own id.")
            if question.choices and question.choices.count(question.answer_text) > 1:
                left["questions left out: their right choice is there twice"] += 1
            else:
                questions[question.id] = question
    for what, count in left.items():
        if count:
            say(f"  {path}: {count:,} {what}")
    if not questions:
        raise UserError(f"{path}: holds no question. Name another file, or another questions.kind.")
    return numbered(questions.values(), split)


def _read(
    kind: str, row: Row, source: str, where: str, left: Counter[str], layout: table.Layout | None
) -> Iterable[Question]:
    if layout is not None:
        return [table.question(row, source, where, layout)]
    if kind == "chat":
        return chat.questions(row, source, left)
    if kind == "squad":
        return squad.questions(row, left)
    if kind == "hotpotqa":
        return [hotpotqa.question(row)]
    if kind == "medqa" and "options" in row:
        return [medqa.own_question(row, source)]
    return [hub.DATASETS[kind][2](row)]


def _layout(section: QuestionsSection, path: Path, rows: list[Row]) -> table.Layout:
    if not rows:
        raise UserError(f"{path}: holds no question. Add a row for each, below a line of column names.")
    with _explained(str(path), "questions", "table", {}):
        layout = table.layout_of(rows, section.columns)
    choices = [*layout.choices.values(), *layout.wrong]
    read = [f"{key}: '{name}'" for key, name in layout.columns.items()] + [f"choices: '{name}'" for name in choices]
    unread = set(rows[0]) - {*layout.columns.values(), *choices}
    say(f"  {path}: columns {', '.join(read)}; not read: {', '.join(sorted(unread)) or 'none'}")
    return layout


@contextmanager
def _explained(where: str, section: str, kind: str, row: Row) -> Iterator[None]:
    """Turn what is raised over a row that does not fit into one message that says what was found, and what to do."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        what = f"has no {error}" if isinstance(error, KeyError) else str(error)
        if not isinstance(error, KeyError | ValueError):
            what = "has another form"
        known = looks_like(row)
        is_other = known is not None and known[2] not in (None, kind)
        hint = f"set {section}.kind: {known[2]}" if known and is_other else f"set another {section}.kind"
        keys = f"; its keys are {', '.join(map(str, row))}" if row else ""
        raise UserError(f"{where}: {what} (read as kind {kind}{keys}). Mend it, or {hint}.") from error
