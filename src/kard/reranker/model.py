"""Late interaction on cached passage vectors: every question token finds its best passage token.

f(d, x) = mean over the question's tokens of the maximum over the passage's tokens of their dot product, with vectors of length 1:
questions of different length are on one scale. With ``reranker.interaction: paper`` it is the paper's: one model for both sides
with a linear layer on top, dot products as they are, and their sum. A question with choices may be read as several queries (the
question with each choice); a passage's score is then its best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from kard.errors import UserError
from kard.machine.cores import each_on_its_cores
from kard.machine.processes import compute_device
from kard.models import precision
from kard.models.at_once import AtOnce
from kard.models.weights import guarded, loading_explained, model_location, most_tokens, reading_as_text
from kard.recipe.sections import RerankerSection
from kard.reranker.candidates import Queries
from kard.reranker.vectors import BATCH, Format, PassageVectors

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

KEY = "reranker.model"
_LENGTH_KEYS = ("reranker.question_tokens", "reranker.passage_tokens")
_QUERIES_AT_ONCE = 64
_PASSAGES_AT_ONCE = 64  # by a core
_TOO_LARGE = "Lower reranker.passage_tokens, or take a smaller reranker.model."


def new_encoder(section: RerankerSection, seed: int) -> MultiVectorEncoder:
    """A multi-vector encoder with a question side and a passage side, both starting from ``reranker.model``.

    Args:
        section: The recipe's ``reranker``.
        seed: Of the linear layer that the paper's form has.

    Raises:
        UserError: The model cannot be loaded, or reads fewer tokens.
    """
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    name, lengths = section.model, (section.question_tokens, section.passage_tokens)
    location = model_location(name, KEY)
    safe: dict[str, Any] = {f"{part}_kwargs": guarded(location) for part in ("model", "processor", "config")}
    modules: list[Any]
    with loading_explained(name, KEY):
        if section.interaction == "paper":
            both = Transformer(location, query_length=lengths[0], document_length=lengths[1], **safe)
            sides, similarity = [both, both], "maxsim"
            size = both.get_embedding_dimension()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                linear = Dense(size, size, activation_function=None, module_input_name="token_embeddings")
            modules = [both, linear]
        else:
            # Questions are short: plain attention trains them faster than a fused kernel, whose backward pass is slow on CPUs.
            how = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
            plain = {**safe, "model_kwargs": {**guarded(location), **how}}
            sides = [
                Transformer(location, max_seq_length=tokens, **kwargs)
                for tokens, kwargs in zip(lengths, (plain, safe), strict=True)
            ]
            similarity = "meanmaxsim"
            modules = [Router.for_query_document(*([side, Normalize("token_embeddings")] for side in sides))]
    for side, key, tokens in zip(sides, _LENGTH_KEYS, lengths, strict=True):
        check_length(side.auto_model, name, key, tokens)
    modules.append(MultiVectorMask())
    return reading_as_text(MultiVectorEncoder(modules=modules, similarity_fn_name=similarity, device=compute_device()))


def check_length(model: Any, name: str, key: str, tokens: int) -> None:
    """Raise UserError if the recipe's `key` asks for more tokens than a model reads."""
    reads = most_tokens(model.config)
    if reads is not None and tokens > reads:
        raise UserError(f"{key}: {tokens} asked for, '{name}' reads at most {reads}. Lower it.")


def encode_passages(encoder: MultiVectorEncoder, texts: list[str], at_once: AtOnce) -> list[np.ndarray]:
    """Token vectors of passages, (tokens, dimension) each, float16; on a CPU each core encodes a part."""
    encoder.preprocess(texts[:1], task="document")  # its tokenizer is set up now, and not by several threads at once

    def encode(some: list[str]) -> list[np.ndarray]:
        with autocast(encoder):
            vectors = encoder.encode_document(some, batch_size=len(some), show_progress_bar=False)
        return [tokens.to(torch.float16).cpu().numpy() for tokens in vectors]

    def in_parts(size: int) -> list[np.ndarray]:
        parts = [texts[begin : begin + size] for begin in range(0, len(texts), size)]
        found = each_on_its_cores(encode, parts) if encoder.device.type == "cpu" else map(encode, parts)
        return [tokens for part in found for tokens in part]

    return at_once.run(in_parts, len(texts))


class Reranker:
    """Scores passages for questions.

    Args:
        encoder: Question side, and passage side where there is one; it knows whether a score is a mean or a sum.
        vectors: The passage side's vectors, filled on demand.
        temperature: τ2, by which it was trained: the scores over it are logarithms of probabilities, up to a constant.
    """

    def __init__(self, encoder: MultiVectorEncoder, vectors: PassageVectors, temperature: float = 1.0) -> None:
        self.encoder = encoder.eval()
        self.vectors = vectors
        self.temperature = temperature
        self._at_once = AtOnce(_QUERIES_AT_ONCE, "questions", _TOO_LARGE)

    def over(self, texts: Sequence[str]) -> Reranker:
        """The same reranker for another version of the documents; vectors of unchanged texts are shared."""
        store = self.vectors
        shared = PassageVectors(store.folder, texts, store.dimension, store.encode, store.form)
        return Reranker(self.encoder, shared, self.temperature)

    def prepare(self, positions: Sequence[int]) -> None:
        """Encode the passages at `positions` that have no vectors yet."""
        self.vectors.ensure(positions)

    def score(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of candidate passages.

        Args:
            questions: One or more query texts each.
            positions: Candidates of each question, as positions in the knowledge base.

        Returns:
            An array (candidates,) in float32 for each question, the best over its queries; higher is better. A score does not
            depend on what else is scored with it, beyond the rounding of the number format.
        """
        return [row.max(axis=0) for row in self.score_each(questions, positions)]

    def score_each(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """As `score`, but of each query: arrays (queries, candidates)."""
        self.prepare([position for row in positions for position in row])
        encoded = self._encode_questions(questions)
        return [self._score(queries, row) for queries, row in zip(encoded, positions, strict=True)]

    def _encode_questions(self, questions: Sequence[Queries]) -> list[list[np.ndarray]]:
        texts = [text for queries in questions for text in queries]

        def encode(size: int) -> Any:
            with autocast(self.encoder):
                return self.encoder.encode_query(texts, batch_size=size, show_progress_bar=False)

        rest = iter(tokens.float().cpu().numpy() for tokens in self._at_once.run(encode, len(texts)))
        return [[next(rest) for _ in queries] for queries in questions]

    def _score(self, queries: list[np.ndarray], positions: Sequence[int]) -> np.ndarray:
        if not len(positions):
            return np.zeros((len(queries), 0), dtype=np.float32)
        tokens, first = self.vectors.joined(positions)
        # torch multiplies on all cores, twice as fast as numpy does here.
        similarity = torch.from_numpy(np.concatenate(queries)) @ torch.from_numpy(tokens).T
        best = np.maximum.reduceat(similarity.numpy(), first, axis=1)
        ends = np.cumsum([len(query) for query in queries])[:-1]
        over_tokens = np.sum if self.encoder.similarity_fn_name == "maxsim" else np.mean
        return np.stack([over_tokens(part, axis=0) for part in np.split(best, ends)])


def passage_vectors(
    encoder: MultiVectorEncoder, folder: Path, texts: Sequence[str], form: Format = "fp16"
) -> PassageVectors:
    """The store of an encoder's passage vectors for a knowledge base."""
    dimension = int(encoder.get_embedding_dimension() or 0)
    at_once = AtOnce(_PASSAGES_AT_ONCE if encoder.device.type == "cpu" else BATCH, "passages", _TOO_LARGE)
    return PassageVectors(folder, texts, dimension, lambda batch: encode_passages(encoder, batch, at_once), form)


def encoder_dtype(encoder: Any) -> torch.dtype:
    """The number format that an encoder of sentence-transformers computes in here."""
    kinds = (one.config.model_type for one in encoder.modules() if isinstance(one, PreTrainedModel))
    return precision.compute_dtype("auto", next(kinds))


def autocast(encoder: Any) -> Any:
    """Forward passes of an encoder in its number format."""
    return precision.autocast(encoder.device.type, encoder_dtype(encoder))
