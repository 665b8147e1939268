"""How many dev questions a student answers right, for early stopping."""

from __future__ import annotations

from collections.abc import Sequence

from kard.data.question import Question
from kard.methods import Writes
from kard.prompt import extract, same_answer, shown_answer
from kard.student.generation import Student, Writing


def accuracy(student: Student, asked: Sequence[tuple[str, Question]], how: Writing) -> float:
    """The share of prompts whose question a student answers right, as it would in an evaluation.

    Args:
        student: Loaded as for any writing.
        asked: Prompts, each with its question, whose answer is known; at least one.
        how: As in the evaluation.
    """
    form = student.settings.answer_as
    shown = {
        prompt: [shown_answer(question.choices, index, form) for index in range(len(question.choices))]
        for prompt, question in asked
    }
    written = student.write(shown, how)
    return sum(_is_right(written[prompt].text, question, how.writes, student) for prompt, question in asked) / len(
        asked
    )


def _is_right(text: str, question: Question, writes: Writes, student: Student) -> bool:
    assert question.answer is not None
    return same_answer(extract(text, question.choices, writes, student.settings.answer_as).answer, question.answer)
