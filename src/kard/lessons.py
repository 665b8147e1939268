"""What students learn from: questions, rationales and passages of a run, rendered as they will be at test time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kard.artifacts import read_jsonl
from kard.data.passage import read_passages
from kard.data.question import Question, read_questions
from kard.errors import UserError
from kard.kard import Kard
from kard.methods import METHODS, TrainedOn, Writes, methods_named
from kard.parts import load_readers
from kard.progress import say
from kard.prompt import WorkedExample, holds_question, shown_answer, target
from kard.recipe import Recipe
from kard.retrieval.index import load_retriever
from kard.teacher.rationale import Rationale, read_rationales

MIXED_SHARE = 0.5  # of the examples, with student.train_passages: mixed


def worked_examples(recipe: Recipe, run: Path) -> tuple[WorkedExample, ...]:
    """Training questions with a kept rationale and its silver passages, drawn by the seed: ``evaluation.shots`` of them."""
    questions = read_questions(run / "questions" / "train.jsonl")[: explained_count(recipe)]
    random.Random(recipe.seed).shuffle(questions)
    wanted, form = recipe.evaluation.shots, recipe.student.answer_as
    found: dict[str, WorkedExample] = {}
    for lesson in lessons(recipe, run, "nothing", questions):
        question = lesson.question
        assert question.answer is not None
        answer = shown_answer(question.choices, question.answer, form)
        example = WorkedExample(question.question, question.choices, tuple(lesson.passages), lesson.rationale, answer)
        found.setdefault(question.id, example)
        if len(found) == wanted:
            return tuple(found.values())
    raise UserError(
        f"evaluation.shots: {wanted} asked for, and {len(found)} training questions have a kept rationale. Lower it."
    )


@dataclass(frozen=True)
class Lesson:
    """One training example before it is rendered."""

    question: Question
    passages: list[str]
    rationale: str


def training_examples(
    recipe: Recipe, run: Path, trained_on: TrainedOn, tokenizer: Any, questions: Sequence[Question] | None = None
) -> Iterator[Any]:
    """Prompts and targets of a training set, rendered as they will be at test time.

    Args:
        recipe: The recipe.
        run: The run's folder.
        trained_on: Which training set.
        tokenizer: The student's; prompts are shortened to what it may read.
        questions: Whose examples; None: the training questions that students learn from.
    """
    from kard.student.generation import fitting_prompt
    from kard.student.training import Example

    section = recipe.student
    writes = writes_of(trained_on)
    if questions is None:
        questions = read_questions(run / "questions" / "train.jsonl")[: section.train_questions]
    cut: set[str] = set()
    for lesson in lessons(recipe, run, trained_on, questions):
        question = lesson.question
        assert question.answer is not None
        prompt = fitting_prompt(
            tokenizer,
            section.max_input_tokens,
            question.question,
            question.choices,
            lesson.passages,
            writes,
            section.answer_as,
            long_questions=section.long_questions,
        )
        cut |= set() if holds_question(prompt, question.question) else {question.id}
        answer = shown_answer(question.choices, question.answer, section.answer_as)
        asks = learns_questions(recipe, trained_on) and bool(lesson.passages)
        yield Example(prompt, target(lesson.rationale, answer, writes), asks)
    if cut:
        say(f"  {len(cut):,} questions to learn from do not fit into student.max_input_tokens: cut at the front")


def learns_questions(recipe: Recipe, trained_on: str) -> bool:
    """Whether a student also learns how likely a question is after its silver passages, for the reranker's second look."""
    reranked = any(method.reads == "reranker" for method in methods_named(recipe.evaluation.methods))
    return trained_on == "rationales_silver" and reranked and bool(recipe.reranker.second_look)


def writes_of(trained_on: TrainedOn) -> Writes:
    return "answer" if trained_on.startswith("answers") else "rationale"


def lessons(recipe: Recipe, run: Path, trained_on: TrainedOn, questions: Sequence[Question]) -> Iterator[Lesson]:
    """What a student learns from: questions alone, with passages by question, with rationales, or with their silver passages
    (which an untrained one is shown)."""
    if trained_on == "answers":
        yield from (Lesson(question, [], "") for question in questions)
        return
    texts = read_passages(run / "knowledge" / "passages.jsonl").texts
    if trained_on == "answers_passages":
        queries = [question.query(recipe.retriever.query) for question in questions]
        found = load_retriever(recipe.retriever, run / "index").search(queries, recipe.student.passages)
        for question, hits in zip(questions, found, strict=True):
            yield Lesson(question, [texts[p] for p in hits.positions], "")
        return
    silver = {row["rationale"]: row["silver"] for row in read_jsonl(run / "candidates" / "candidates.jsonl")}
    kept: dict[str, list[Rationale]] = {}
    for rationale in read_rationales(run / "rationales" / "rationales.jsonl"):
        if rationale.status == "kept":
            kept.setdefault(rationale.question, []).append(rationale)
    pairs = [(q, rationale) for q in questions for rationale in kept.get(q.id, [])[: recipe.student.rationales]]
    by_question = mixed_in(recipe, run, pairs) if trained_on == "rationales_silver" else {}
    depth = 0 if trained_on == "rationales" else recipe.student.passages
    for question, rationale in pairs:
        passages = by_question.get(rationale.id) or [texts[p] for p in silver[rationale.id][:depth]]
        yield Lesson(question, passages, rationale.text)


def mixed_in(recipe: Recipe, run: Path, pairs: Sequence[tuple[Question, Rationale]]) -> dict[str, list[str]]:
    """For half of the rationales, drawn by the seed, the passages that their question finds, as at test time.

    They come by the reranker where a method uses it, by the retriever otherwise; none with ``student.train_passages: silver``.
    """
    if recipe.student.train_passages == "silver" or not pairs:
        return {}
    drawn = np.random.default_rng(recipe.seed).random(len(pairs)) < MIXED_SHARE
    chosen = [pair for pair, is_drawn in zip(pairs, drawn, strict=True) if is_drawn]
    used = methods_named(recipe.evaluation.methods)
    method = METHODS["kard_reranker" if any(method.reads == "reranker" for method in used) else "kard_bm25"]
    kard = Kard(method, None, *load_readers(run, recipe, [method], online=True), recipe)  # type: ignore[arg-type]  # nothing is written
    passages = kard.read([question for question, _ in chosen], recipe.student.passages)
    return {
        rationale.id: [item.passage.full_text for item in row]
        for (_, rationale), row in zip(chosen, passages, strict=True)
    }


def explained_count(recipe: Recipe) -> int | None:
    """How many training questions need rationales; None means all."""
    wanted = (recipe.student.train_questions, recipe.reranker.train_questions)
    return None if None in wanted else max(size for size in wanted if size is not None)
