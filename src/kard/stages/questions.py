"""questions: train, dev and test as JSONL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kard.calibration import check_dev
from kard.data.question import Question, write_questions
from kard.data.questions import load_splits
from kard.data.sources import remember_sources
from kard.data.splits import SPLITS
from kard.errors import UserError
from kard.progress import say
from kard.prompt import check_letters
from kard.recipe.recipe import Recipe
from kard.run import Run
from kard.stages.generated import make_generated


def make_questions(run: Run, folder: Path) -> None:
    """Read, split and check the recipe's questions, or let the teacher make them.

    Raises:
        UserError: A file or a question is wrong, or there are too few.
    """
    recipe = run.recipe
    if recipe.questions.kind == "generated":
        splits = make_generated(run, folder)
    else:
        splits = load_splits(recipe.questions, recipe.seed_of_data)
    for name in SPLITS:
        for question in splits[name]:
            check_letters(question.choices, recipe.student.answer_as, f"question '{question.id}' ({name})")
        write_questions(folder / f"{name}.jsonl", splits[name])
    if recipe.student.long_questions == "stop":
        _check_lengths(recipe, [question for name in SPLITS for question in splits[name]])
    remember_sources(recipe.questions, folder)
    if not splits[recipe.evaluation.split]:
        raise UserError(
            "evaluation.split: dev asked for, and there is no dev question. Give questions.dev or dev_size."
        )
    if recipe.evaluation.abstain.risk is not None:
        check_dev(len(splits["dev"]), recipe.evaluation.abstain.risk)
    say("  " + ", ".join(f"{name} {len(splits[name]):,}" for name in SPLITS))


def _check_lengths(recipe: Recipe, questions: Sequence[Question]) -> None:
    """Raise UserError where a question cannot be read as a whole, before anything is paid for or learned."""
    from kard.models.weights import model_location
    from kard.student.fitting import fitting_prompt
    from kard.student.loading import KEY, base_tokenizer

    section = recipe.student.model_copy(update={"long_questions": "stop"})
    tokenizer = base_tokenizer(model_location(section.model, KEY))
    for question in questions:
        try:
            fitting_prompt(tokenizer, section, question.question, question.choices, (), "rationale")
        except UserError as error:
            raise UserError(f"questions, id '{question.id}': {error}") from error
