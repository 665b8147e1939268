"""Score features: what is known of a candidate before the reranker reads it, and is added to its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kard.data.normal import normalised
from kard.data.passage import Passage
from kard.data.question import Question

if TYPE_CHECKING:
    from kard.recipe.sections import RerankerSection
    from kard.retrieval.retriever import Hits


def score_features(
    section: RerankerSection, questions: Sequence[Question], hits: Sequence[Hits], passages: Sequence[Passage]
) -> list[np.ndarray]:
    """a · ρ(d|x) + b · [the title of d is one of the choices of x], for each question's candidates.

    Args:
        section: The recipe's ``reranker``: ``retriever_weight`` is a, ``title_weight`` is b.
        questions: Each with its choices, or without.
        hits: Candidates of each, with the retriever's scores.
        passages: The knowledge base.

    Returns:
        An array (candidates,) in float32 for each question.
    """
    found = []
    for question, hit in zip(questions, hits, strict=True):
        feature = section.retriever_weight * np.asarray(hit.scores, dtype=np.float32)
        if section.title_weight and question.choices:
            choices = {normalised(choice) for choice in question.choices} - {""}  # no title is no choice
            titled = [normalised(passages[position].title) in choices for position in hit.positions]
            feature = feature + section.title_weight * np.array(titled, dtype=np.float32)
        found.append(feature)
    return found


def queries_of(question: Question, form: str) -> tuple[str, ...]:
    """How the reranker reads a question (``reranker.choices``)."""
    if not question.choices or form == "none":
        return (question.question,)
    if form == "together":
        return (question.query("question_and_choices"),)
    return tuple(f"{question.question} {choice}" for choice in question.choices)
