"""rationales: every rationale with its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from kard.data.question import Question
from kard.errors import UserError
from kard.machine.sharing import Compute, led
from kard.methods import methods_named
from kard.progress import say
from kard.recipe.recipe import Recipe
from kard.recipe.teacher import TeacherSection
from kard.run import Run
from kard.teacher.rationale import Rationale, write_rationales

if TYPE_CHECKING:
    from kard.student.prompted import PromptedModel
    from kard.teacher.collect import Models

Reading = tuple[str, Sequence[str]]
"""What a verifier reads, and the answers that it ranks."""


def make_rationales(run: Run, with_test: bool, folder: Path) -> None:
    """Let the teacher explain the questions of `explained_questions`.

    Raises:
        UserError: None was kept.
    """
    models = teacher_models(run.recipe)

    def verdicts(readings: Sequence[Reading]) -> Sequence[int]:
        assert models.rank is not None
        return models.rank([text for text, _ in readings], [answers for _, answers in readings]) if readings else []

    led(verdicts, partial(_collect, run, with_test, folder, models))


def _collect(run: Run, with_test: bool, folder: Path, models: Models, verdicts: Compute[Reading, int]) -> None:
    from kard.teacher.collect import collect_rationales, why_none_is_kept

    recipe = run.recipe
    questions, to_ask = explained_questions(run, with_test), questions_to_ask(run)
    passages, gold = run.passages(), run.named(questions)
    asked = {question.id for question in to_ask}

    def by(section: TeacherSection, some: Sequence[Question]) -> Sequence[Rationale]:
        if not some:
            return []
        return collect_rationales(
            some,
            lambda question: [passages[p] for name in question.gold_passages for p in gold.get(name, [])],
            section,
            recipe.seed_of_data,
            run.folder / "teacher.sqlite",
            replace(models, rank=lambda prompts, answers: list(verdicts(list(zip(prompts, answers, strict=True))))),
        )

    came = [question for question in questions if question.id not in asked]
    rationales = [*by(recipe.explainer, came), *by(recipe.teacher, to_ask)]
    place = {question.id: number for number, question in enumerate(questions)}
    rationales.sort(key=lambda rationale: place[rationale.question])
    write_rationales(folder / "rationales.jsonl", rationales)
    kept = [rationale.question for rationale in rationales if rationale.status == "kept"]
    train = {question.id for question in run.questions("train")}
    without = [question.id in train for question in questions if question.id not in set(kept)]
    learned, tested = sum(without), len(without) - sum(without)
    missing = f"; none for {learned:,} training and {tested:,} {recipe.evaluation.split} questions" if without else ""
    say(f"  {len(kept):,} of {len(rationales):,} rationales kept{missing}")
    if unknown := unknown_gold(run, questions, gold):
        say(f"  {unknown}")
    if not kept:
        extractive = recipe.explainer.kind == "extractive"
        why = unknown if extractive and unknown else why_none_is_kept(rationales, recipe.explainer)
        raise UserError(f"rationales: none was kept. {why}")


def explained_questions(run: Run, with_test: bool) -> list[Question]:
    """Questions that need rationales: the training questions that student or reranker learn from, those that are
    evaluated where rationales cost nothing or an oracle method reads them, and dev questions for early stopping."""
    train = run.questions("train")[: run.recipe.explained_count]
    asked = [*train, *(run.evaluated() if with_test else []), *stopping_questions(run)]
    return list({question.id: question for question in asked}.values())


def questions_to_ask(run: Run) -> list[Question]:
    """Those that the teacher has to be asked to explain: all that need a rationale; where rationales come along with generated
    questions, those that came without. Evaluated ones are asked about where an oracle reads their rationales."""
    recipe = run.recipe
    if not recipe.teacher.asks:
        return []
    oracle = any(method.needs_test_rationales for method in methods_named(recipe.evaluation.methods))
    return [
        question for question in explained_questions(run, oracle) if recipe.explainer.asks or not question.rationales
    ]


def stopping_questions(run: Run) -> list[Question]:
    """The dev questions whose loss stops the training; none where the recipe does not ask for it."""
    return run.questions("dev") if run.recipe.student.early_stopping is not None else []


def unknown_gold(run: Run, questions: Sequence[Question], gold: Mapping[str, Sequence[int]]) -> str:
    """Which ids in ``gold_passages`` name no document, and what ids look like; nothing where all do."""
    named = list(dict.fromkeys(name for question in questions for name in question.gold_passages))
    missing = [name for name in named if not gold.get(name)]
    if not missing:
        return ""
    passages = run.passages()
    like = ", ".join(f"'{passages[place].document}'" for place in range(min(3, len(passages))))
    return (
        f"gold_passages: '{missing[0]}' is no id of a document ({len(missing):,} of {len(named):,} ids are none); ids look "
        f"like {like}. Mend the ids in your questions, or those of your documents."
    )


def teacher_models(recipe: Recipe) -> Models:
    """The language models that the teacher needs in this process; each is loaded when it is first asked."""
    from kard.teacher.collect import Models

    @cache
    def loaded(name: str, key: str) -> PromptedModel:
        from kard.student.prompted import PromptedModel

        say(f"  load {name} ({key})")
        return PromptedModel.load(name, key)

    section = recipe.teacher
    return Models(
        lambda prompts, answers: loaded(section.verifier or "", "teacher.verifier").rank(prompts, answers),
        lambda bodies: loaded(section.model or "", "teacher.model").write(bodies),
    )
