"""Answering files of questions, resumable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kard.artifacts.files import Log
from kard.artifacts.folders import disk_full_explained, locked
from kard.data.filters import EVERYTHING, Restriction, condition_of
from kard.data.question import Question, check_choices
from kard.data.readers.foreign import check_keys, say_unread
from kard.data.readers.jsonl import choices_of, read_user_jsonl, text_of
from kard.errors import UserError
from kard.kard import Answer, Kard, answerer
from kard.notebook import meaning
from kard.progress import progress

QUESTIONS_AT_ONCE = 128


@dataclass(frozen=True)
class Asked:
    """A line of a file: a question, and which documents may be read for it."""

    question: Question
    restriction: Restriction = EVERYTHING

    def row(self) -> dict[str, Any]:
        """As it stands beside its answer."""
        asked = {"id": self.question.id, "question": self.question.question, "choices": list(self.question.choices)}
        return {**asked, "filter": json.loads(self.restriction.filter)} if self.restriction.filter else asked


@dataclass(frozen=True)
class Counts:
    """How many questions were answered now, and how many had been before."""

    answered: int
    there: int


def answer_file(run: Path, source: Path, output: Path, method: str | None = None, engine: str | None = None) -> Counts:
    """Answer a JSONL file of questions with a finished run.

    Args:
        run: The run's folder.
        source: Objects with ``question`` and, where there are any, ``id`` (default: the line number), ``choices`` and
            ``filter``, a condition on the metadata of the documents that may be read for the question.
        output: JSONL that answers are appended to; questions that are there are not answered again.
        method: One of the run's methods; by default its best one that is no oracle.
        engine: See `Kard.load`.

    Raises:
        UserError: A line is wrong, `output` cannot be written or holds something else, such as answers to other questions or
            of another run or method, another command is writing there, or the run is not finished.
    """
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"{output}: cannot be written. Name a file in a folder that is there.")
    with locked(output, beside=True):
        return _answer_file(run, source, output, method, engine)


def _answer_file(run: Path, source: Path, output: Path, method: str | None, engine: str | None) -> Counts:
    every = asked_in(source)
    log = Log(output)
    by = answerer(run, method, engine)
    there = _answered(log, by, {asked.question.id: asked.row() for asked in every})
    todo = [asked for asked in every if asked.question.id not in there]
    if todo:
        kard = Kard.load(run, method, engine)
        _check(source, todo, kard)
        with progress("answer", len(todo), "questions") as advance, disk_full_explained(output):
            for begin in range(0, len(todo), QUESTIONS_AT_ONCE):
                block = todo[begin : begin + QUESTIONS_AT_ONCE]
                questions, filters = [(one.question, kard.method) for one in block], [one.restriction for one in block]
                answers = zip(block, kard.answer_each(questions, restrictions=filters), strict=True)
                log.append({**asked.row(), **by, **answer_row(answer)} for asked, answer in answers)
                advance(len(block))
    log.close()
    if not every:
        output.touch()  # so that what comes next finds its file
    return Counts(len(todo), len(every) - len(todo))


def _check(source: Path, every: Sequence[Asked], kard: Kard) -> None:
    """Find a question that cannot be put to the student before hours have gone into those above it."""
    for asked in every:
        try:
            kard.check(asked.question, restriction=asked.restriction)
        except UserError as error:
            raise UserError(f"{source}: id '{asked.question.id}': {error}") from error


def answer_row(answer: Answer) -> dict[str, Any]:
    """An answer as JSON: what was said, and what was read."""
    return {
        "id": answer.question,
        "answer": answer.answer,
        "choice": answer.choice,
        "confidence": answer.confidence,
        "calibrated": answer.threshold is not None,
        "abstained": answer.abstained,
        "question_cut": answer.question_cut,
        "rationale": answer.rationale,
        "passages": [item.row() for item in answer.passages],
        "documents": answer.documents,
        "text": answer.text,
    }


def answer_lines(answer: Answer) -> Iterator[str]:
    """An answer for people: what was read, then what was said of it."""
    for item in answer.passages:
        named = {"retriever": item.retriever, "reranker": item.reranker}
        scores = ", ".join(f"{name} {score:.2f}" for name, score in named.items() if score is not None)
        yield f"Passage [{item.passage.id}] ({scores}; {item.passage.source})\n  {item.passage.text}"
    if answer.question_cut:
        yield "The question does not fit into student.max_input_tokens: only its end was read."
    if answer.rationale:
        yield f"Rationale: {answer.rationale}"
    why = "not sure enough to give one; it wrote" if answer.abstained else "no answer could be read off"
    yield f"Answer: {answer.answer if answer.answer is not None else f'({why}: {answer.text})'}"
    if answer.documents:
        yield f"Documents: version {answer.documents}"
    if answer.confidence is not None:
        sure = ": how sure the student is, not how often it is right" if answer.threshold is None else ""
        yield f"Confidence: {answer.confidence:.0%} ({meaning(answer)}{sure})"


def _answered(log: Log, by: dict[str, str], asked: dict[str, dict[str, Any]]) -> set[str]:
    """Ids of the answers that are there, all of them by the same answerer and to what is asked now."""
    rows = log.read()
    if not all({"id", "question", "choices", *by, "answer", "text"} <= row.keys() for row in rows):
        raise UserError(f"{log.path}: holds something else than answers of 'kard batch'. Name another file.")
    for row in rows:
        if any(row[name] != value for name, value in by.items()):
            raise UserError(
                f"{log.path}: holds answers of another run, or of this one before it was changed, by {row['method']}. "
                "Name another file."
            )
        wanted = asked.get(row["id"], {})
        if any(row[name] != value for name, value in wanted.items() if name != "filter") or (
            wanted and row.get("filter") != wanted.get("filter")
        ):
            raise UserError(
                f"{log.path}: holds the answer to another question of the id '{row['id']}'. Name another file, or give "
                "every question an id of its own."
            )
    return {row["id"] for row in rows}


def asked_in(source: Path) -> list[Asked]:
    """The questions of a file, without their answers; an id that is not given is the line's number."""
    every: dict[str, Asked] = {}
    keys: set[str] = set()
    for number, row in read_user_jsonl(source):
        where = f"{source}:{number}"
        check_keys(row, ("question", "choices"), where)
        identity = text_of(row, "id", where) if "id" in row else str(number)
        if identity in every:
            raise UserError(f"{where}: id '{identity}' is there twice. Give every question its own id.")
        question = Question(identity, text_of(row, "question", where), choices_of(row, where))
        check_choices(question.choices, where)
        every[identity] = Asked(question, Restriction.of(condition_of(row.get("filter"), where)))
        keys |= row.keys() - {"filter"}
    say_unread(source, keys)
    return list(every.values())
