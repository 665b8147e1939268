"""What is known of a candidate before the reranker reads it, and is added to its score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kard.data.passage import Passage
from kard.data.question import Question, normalised
from kard.recipe import RerankerSection
from kard.retrieval.retriever import Hits


def priors(
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
        prior = section.retriever_weight * np.asarray(hit.scores, dtype=np.float32)
        if section.title_weight and question.choices:
            choices = {normalised(choice) for choice in question.choices} - {""}  # no title is no choice
            titled = [normalised(passages[position].title) in choices for position in hit.positions]
            prior = prior + section.title_weight * np.array(titled, dtype=np.float32)
        found.append(prior)
    return found
