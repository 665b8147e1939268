"""Late interaction on cached passage vectors: every question token finds its best passage token.

f(d, x) = mean over the question's tokens of the maximum over the passage's tokens of their dot product: the authors'
architecture, with the mean in place of the sum so that questions of different length are on one scale. A question with choices
may be read as several queries (the question with each choice); a passage's score is then its best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from kard.errors import UserError
from kard.reranker.vectors import PassageVectors
from kard.training import compute_dtype
from kard.weights import loading_explained, model_location

KEY = "reranker.model"
_QUERIES_AT_ONCE = 64

Queries = tuple[str, ...]
"""A question as the reranker reads it: one text, or one for each choice."""


def new_encoder(name: str, question_tokens: int, passage_tokens: int) -> MultiVectorEncoder:
    """A multi-vector encoder with a question side and a passage side, both starting from the same model.

    Args:
        name: Folder, hub id or ``package:NAME`` of an encoder.
        question_tokens: Longer questions are cut.
        passage_tokens: Longer passages are cut.

    Raises:
        UserError: The model cannot be loaded, or reads fewer tokens.
    """
    location = model_location(name, KEY)
    with loading_explained(name, KEY):
        # Questions are short: plain attention trains them faster than a fused kernel does (its backward pass is slow on CPUs).
        plain = {"attn_implementation": "eager"}
        sides = [
            Transformer(location, max_seq_length=question_tokens, model_kwargs=plain),
            Transformer(location, max_seq_length=passage_tokens),
        ]
    reads = sides[0].auto_model.config.to_dict().get("max_position_embeddings")
    for side, tokens in (("question", question_tokens), ("passage", passage_tokens)):
        if reads is not None and tokens > reads:
            raise UserError(f"reranker.{side}_tokens: {tokens} asked for, '{name}' reads at most {reads}. Lower it.")
    router = Router.for_query_document(*([side, Normalize("token_embeddings")] for side in sides))
    return MultiVectorEncoder(modules=[router, MultiVectorMask()], similarity_fn_name="meanmaxsim")


def encode_passages(encoder: MultiVectorEncoder, texts: list[str]) -> list[np.ndarray]:
    """Token vectors of passages, (tokens, dimension) each, float16."""
    with _autocast(encoder):
        vectors = encoder.encode_document(texts, batch_size=len(texts), show_progress_bar=False)
    return [tokens.to(torch.float16).cpu().numpy() for tokens in vectors]


class Reranker:
    """Scores passages for questions.

    Args:
        encoder: Question side and passage side.
        vectors: The passage side's vectors, filled on demand.
    """

    def __init__(self, encoder: MultiVectorEncoder, vectors: PassageVectors) -> None:
        self.encoder = encoder.eval()
        self.vectors = vectors

    @classmethod
    def load(cls, folder: Path, vectors_folder: Path, texts: Sequence[str]) -> Reranker:
        """Read a trained reranker; it is an ordinary ``MultiVectorEncoder`` folder."""
        encoder = MultiVectorEncoder(str(folder))
        return cls(encoder, passage_vectors(encoder, vectors_folder, texts))

    def score(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of candidate passages.

        Args:
            questions: One or more query texts each.
            positions: Candidates of each question, as positions in the knowledge base.

        Returns:
            An array (candidates,) in float32 for each question; higher is better. A score does not depend on what else is
            scored with it, beyond the rounding of the number format.
        """
        self.vectors.ensure([position for row in positions for position in row])
        encoded = self._encode_questions(questions)
        return [self._score(queries, row) for queries, row in zip(encoded, positions, strict=True)]

    def _encode_questions(self, questions: Sequence[Queries]) -> list[list[np.ndarray]]:
        texts = [text for queries in questions for text in queries]
        with _autocast(self.encoder):
            vectors = self.encoder.encode_query(texts, batch_size=_QUERIES_AT_ONCE, show_progress_bar=False)
        rest = iter(tokens.float().cpu().numpy() for tokens in vectors)
        return [[next(rest) for _ in queries] for queries in questions]

    def _score(self, queries: list[np.ndarray], positions: Sequence[int]) -> np.ndarray:
        if not len(positions):
            return np.zeros(0, dtype=np.float32)
        passages = self.vectors.get(positions)
        starts = np.cumsum([0, *(len(tokens) for tokens in passages[:-1])])
        tokens = np.concatenate(passages).astype(np.float32)
        similarity = np.concatenate(queries) @ tokens.T
        best = np.maximum.reduceat(similarity, starts, axis=1)
        ends = np.cumsum([len(query) for query in queries])[:-1]
        return np.max([part.mean(axis=0) for part in np.split(best, ends)], axis=0)


def passage_vectors(encoder: MultiVectorEncoder, folder: Path, texts: Sequence[str]) -> PassageVectors:
    """The store of an encoder's passage vectors for a knowledge base."""
    dimension = int(encoder.get_embedding_dimension() or 0)
    return PassageVectors(folder, texts, dimension, lambda batch: encode_passages(encoder, batch))


def _autocast(encoder: Any) -> Any:
    dtype = compute_dtype("auto")
    return torch.autocast(encoder.device.type, dtype, enabled=dtype == torch.bfloat16)
