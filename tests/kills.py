"""Runs a recipe in a process of its own that kills itself in the middle of a stage."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which kills the process once it has been called so many times."""
    count = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        result = function(*args, **kwargs)
        count += 1
        if count >= calls:
            die()
        return result

    return counted


def in_questions() -> None:
    from kard.stages import questions

    questions.write_questions = after(2, questions.write_questions)


def in_knowledge() -> None:
    from kard.data import passages as knowledge

    knowledge.write_passages = after(1, knowledge.write_passages)


def in_index() -> None:
    from kard.retrieval import building

    building._merged = after(1, building._merged)


def in_rationales() -> None:
    from kard.stages import rationales

    rationales.write_rationales = after(1, rationales.write_rationales)


def in_candidates() -> None:
    from kard.stages import candidates

    candidates.candidate_positions = after(7, candidates.candidate_positions)


def in_vectors() -> None:
    from kard.reranker.vectors import PassageVectors

    PassageVectors._append = after(1, PassageVectors._append)


def in_training_step(number: int) -> Callable[[], None]:
    def patch() -> None:
        from kard.models.training import _Watch

        _Watch.on_step_end = after(number, _Watch.on_step_end)

    return patch


def save_often() -> None:
    """A checkpoint after every step."""
    from kard.models.training import _Watch

    original = _Watch.__init__
    _Watch.__init__ = lambda self, label, minutes, *rest: original(self, label, 0.0, *rest)


def in_checkpoint() -> None:
    """While a checkpoint is being written: it must not be taken for whole."""
    from transformers import Trainer

    Trainer._save_rng_state = after(2, Trainer._save_rng_state)


def in_predictions() -> None:
    from kard.student.generation import Student

    Student._continue = after(3, Student._continue)


def in_report() -> None:
    from kard.report import sheet

    sheet.write_report = after(1, sheet.write_report)


KILLS: dict[str, Callable[[], None]] = {
    "questions": in_questions,
    "knowledge": in_knowledge,
    "index": in_index,
    "rationales": in_rationales,
    "candidates": in_candidates,
    "reranker/vectors": in_vectors,
    "reranker/training": in_training_step(4),
    "students/step": in_training_step(3),
    "students/checkpoint": in_checkpoint,
    "predictions": in_predictions,
    "report": in_report,
}


def run_and_die(recipe_path: str, stage: str | None) -> None:
    """Run the recipe; with a stage, die in the middle of it."""
    from kard.pipeline import run_recipe
    from kard.recipe.file import load_recipe

    if stage is not None:
        KILLS[stage]()
    save_often()
    recipe = load_recipe(recipe_path)
    assert recipe.output is not None
    run_recipe(recipe, recipe.output)
