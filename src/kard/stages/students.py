"""students: one for each distinct training set, on the model with its vocabulary trimmed where the recipe asks for it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kard.artifacts.files import write_json
from kard.data.question import Question
from kard.errors import UserError
from kard.machine.processes import whole_models
from kard.methods import TRAINING_SETS, TrainedOn, methods_named
from kard.progress import say
from kard.prompt import WorkedExample, holds_question, render, shown_answer, target, with_examples
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.rationales import stopping_questions

if TYPE_CHECKING:
    from kard.student.training import Example

PROMPT_TOKENS = 4096  # a prompted student may read, unless its model can read fewer


def make_base(run: Run, folder: Path) -> None:
    """The model with its vocabulary trimmed to passages, training questions and rationales."""
    from kard.models.weights import model_location
    from kard.student.loading import KEY, base_model, base_tokenizer, model_dtype
    from kard.student.vocabulary import trim

    section = run.recipe.student
    location = model_location(section.model, KEY)
    tokenizer = base_tokenizer(location)
    model = base_model(location, model_dtype(section.dtype if section.method == "lora" else "fp32", location))

    def texts() -> Iterator[str]:
        yield with_examples(["- (A) (B) (C) (D) (E)", "Passage:"], "Question:")
        for passage in run.passages():
            yield render("", (), [passage.full_text], "rationale")
        for row in run.rationales():
            yield target(row.text, "", "rationale")
        for question in run.questions("train"):
            answers = (target("", choice, "rationale") for choice in question.choices or (question.answer_text,))
            yield render(question.question, question.choices, (), "rationale") + "".join(answers)

    before = model.config.vocab_size
    smaller = trim(model, tokenizer, texts())
    model.save_pretrained(folder)
    smaller.save_pretrained(folder)
    say(f"  vocabulary {before:,} → {model.config.vocab_size:,} tokens")


def make_student(run: Run, trained_on: TrainedOn, folder: Path) -> None:
    """Train the student of a training set."""
    from kard.student.loading import base_tokenizer
    from kard.student.training import train_student

    recipe, (base, saved_as) = run.recipe, base_student(run)
    tokenizer = base_tokenizer(base)
    with whole_models():
        examples = list(training_examples(run, trained_on, tokenizer))
        dev = list(training_examples(run, trained_on, tokenizer, stopping_questions(run)))
    if recipe.student.early_stopping is not None and not dev:
        raise UserError(
            "student.early_stopping: no dev question has an example to look at. Give questions.dev or dev_size, and dev "
            "questions what a rationale needs, or set student.early_stopping: null."
        )
    label = f"train student on {trained_on}"
    train_student(examples, base, saved_as, recipe.student, recipe.seed, folder, label, dev)


def make_prompted(run: Run, folder: Path) -> None:
    """The model as it is, with worked examples to show in front of a question."""
    from kard.student.loading import StudentSettings, base_tokenizer, model_dtype

    base, saved_as = base_student(run)
    base_tokenizer(base).save_pretrained(folder / "tokenizer")
    section = run.recipe.student
    settings = StudentSettings(
        base=saved_as,
        adapters=False,
        answer_as=section.answer_as,
        dtype=str(model_dtype(section.dtype, base)).removeprefix("torch."),
        max_input_tokens=_prompt_tokens(run.recipe, base),
        max_output_tokens=section.max_output_tokens,
        long_questions=section.long_questions,
        examples=worked_examples(run),
    )
    write_json(folder / "student.json", asdict(settings))


def base_student(run: Run) -> tuple[str, str]:
    """The model that students are made from: where it lies, and how a student's folder names it."""
    from kard.models.weights import model_location
    from kard.student.loading import KEY

    section = run.recipe.student
    if section.trim_vocabulary:
        return str(run.folder / "students" / "base"), "../base"
    return model_location(section.model, KEY), section.model


def _prompt_tokens(recipe: Recipe, base: str) -> int:
    """How many tokens a prompted student may read: what the model has positions for, up to a limit of ours."""
    from transformers import AutoConfig

    from kard.models.weights import most_tokens

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    written = 0 if config.is_encoder_decoder else recipe.student.max_output_tokens
    return min((most_tokens(config) or sys.maxsize) - written, PROMPT_TOKENS)


@dataclass(frozen=True)
class Explained:
    """A training question with the passages and the rationale that its example shows; "" where it shows none."""

    question: Question
    passages: list[str]
    rationale: str = ""


def explained(run: Run, trained_on: TrainedOn, questions: Sequence[Question]) -> Iterator[Explained]:
    """What the examples of a training set are made from, before they are rendered: questions alone, with the passages that
    they find, or with kept rationales (and the silver passages of these)."""
    recipe, of = run.recipe, TRAINING_SETS[trained_on]
    texts = run.passages().texts
    if not of.from_rationales:
        found = _found_by_question(run, questions) if of.reads == "question" else [[] for _ in questions]
        for question, positions in zip(questions, found, strict=True):
            yield Explained(question, [texts[p] for p in positions])
        return
    silver = {row.rationale: row.silver for row in run.candidates()}
    kept: dict[str, list[Any]] = {}
    for rationale in run.rationales():
        if rationale.status == "kept":
            kept.setdefault(rationale.question, []).append(rationale)
    pairs = [(q, rationale) for q in questions for rationale in kept.get(q.id, [])[: recipe.student.rationales]]
    depth = recipe.student.passages if of.reads == "silver" else 0
    for question, rationale in pairs:
        yield Explained(question, [texts[p] for p in silver[rationale.id][:depth]], rationale.text)


def training_examples(
    run: Run, trained_on: TrainedOn, tokenizer: Any, questions: Sequence[Question] | None = None
) -> Iterator[Example]:
    """Prompts and targets of a training set, rendered as they will be at test time.

    Args:
        run: The run.
        trained_on: Which training set.
        tokenizer: The student's; prompts are shortened to what it may read.
        questions: Whose examples; None: the training questions that students learn from.
    """
    from kard.student.fitting import fitting_prompt
    from kard.student.training import Example

    section, writes = run.recipe.student, TRAINING_SETS[trained_on].writes
    if questions is None:
        questions = run.questions("train")[: section.train_questions]
    cut: set[str] = set()
    for one in explained(run, trained_on, questions):
        question = one.question
        assert question.answer is not None
        prompt = fitting_prompt(tokenizer, section, question.question, question.choices, one.passages, writes)
        cut |= set() if holds_question(prompt, question.question) else {question.id}
        answer = shown_answer(question.choices, question.answer, section.answer_as)
        asks = learns_questions(run.recipe, trained_on) and bool(one.passages)
        yield Example(prompt, target(one.rationale, answer, writes), asks)
    if cut:
        say(f"  {len(cut):,} questions to learn from do not fit into student.max_input_tokens: cut at the front")


def learns_questions(recipe: Recipe, trained_on: TrainedOn) -> bool:
    """Whether a student also learns how likely a question is after its silver passages, for the query likelihood."""
    return (
        TRAINING_SETS[trained_on].reads == "silver"
        and trained_on != "nothing"
        and uses_reranker(recipe)
        and recipe.reranker.likelihood_weight is not None
    )


def uses_reranker(recipe: Recipe) -> bool:
    """Whether a method of the recipe reads what the reranker finds."""
    return any(method.reads == "reranker" for method in methods_named(recipe.evaluation.methods))


def worked_examples(run: Run) -> tuple[WorkedExample, ...]:
    """Training questions with a kept rationale and its silver passages, drawn by the seed: ``evaluation.shots`` of them."""
    recipe = run.recipe
    questions = run.questions("train")[: recipe.explained_count]
    random.Random(recipe.seed).shuffle(questions)
    wanted, form = recipe.evaluation.shots, recipe.student.answer_as
    found: dict[str, WorkedExample] = {}
    for one in explained(run, "nothing", questions):
        question = one.question
        assert question.answer is not None
        answer = shown_answer(question.choices, question.answer, form)
        example = WorkedExample(question.question, question.choices, tuple(one.passages), one.rationale, answer)
        found.setdefault(question.id, example)
        if len(found) == wanted:
            return tuple(found.values())
    raise UserError(
        f"evaluation.shots: {wanted} asked for, and {len(found)} training questions have a kept rationale. Lower it."
    )


def _found_by_question(run: Run, questions: Sequence[Question]) -> list[list[int]]:
    queries = [question.query(run.recipe.retriever.query) for question in questions]
    hits = run.retriever().search(queries, run.recipe.student.passages)
    return [hit.positions.tolist() for hit in hits]
