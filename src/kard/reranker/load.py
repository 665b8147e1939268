"""Rerankers: begun from the recipe's model, and opened again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kard.machine.processes import compute_device
from kard.recipe.sections import RerankerSection

if TYPE_CHECKING:
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import Reranker


def new_reranker(section: RerankerSection, store: Path, texts: Sequence[str], seed: int) -> Reranker | CrossReranker:
    """An untrained reranker of the kind that the recipe asks for.

    Args:
        section: The recipe's ``reranker``.
        store: Folder for passage vectors.
        texts: All passages' full texts.
        seed: Of a layer that the model has not: a cross-encoder's last one, or the linear one of the paper's form.

    Raises:
        UserError: The model cannot be loaded, or reads fewer tokens.
    """
    from kard.reranker.cross import CrossReranker, new_cross_encoder
    from kard.reranker.model import Reranker, new_encoder, passage_vectors

    if section.kind == "cross_encoder":
        tokens = section.question_tokens + section.passage_tokens
        return CrossReranker(new_cross_encoder(section.model, tokens, seed), texts)
    encoder = new_encoder(section, seed)
    return Reranker(encoder, passage_vectors(encoder, store, texts, section.vectors))


def open_reranker(
    folder: Path | str, section: RerankerSection, store: Path, texts: Sequence[str], temperature: float = 1.0
) -> Reranker | CrossReranker:
    """A trained reranker from its ``model`` folder, an ordinary one of sentence-transformers; the rest as in `new_reranker`."""
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

    from kard.models.weights import guarded_modules, loading_explained, reading_as_text
    from kard.reranker.cross import CrossReranker
    from kard.reranker.model import KEY, Reranker, passage_vectors

    safe = {**guarded_modules(folder), "device": compute_device()}
    with loading_explained(str(folder), KEY):
        if section.kind == "cross_encoder":
            return CrossReranker(reading_as_text(CrossEncoder(str(folder), **safe)), texts, temperature)
        encoder = reading_as_text(MultiVectorEncoder(str(folder), **safe))
    return Reranker(encoder, passage_vectors(encoder, store, texts, section.vectors), temperature)
