"""Cross-encoder: question and passage are read together. Nothing can be kept of a passage, so it is slower and often better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoConfig

from kard.errors import UserError
from kard.machine.processes import compute_device
from kard.machine.sharing import Compute
from kard.models.at_once import AtOnce
from kard.models.weights import guarded, guarded_modules, loading_explained, model_location, reading_as_text
from kard.progress import progress
from kard.reranker.candidates import Queries
from kard.reranker.model import KEY, autocast, check_length

Pair = tuple[str, str]
_PAIRS_AT_ONCE = 64
_QUESTIONS_AT_ONCE = 16


def new_cross_encoder(name: str, tokens: int, seed: int) -> CrossEncoder:
    """A cross-encoder with one output; where the model has no such head, it gets a random one.

    Args:
        name: Folder, hub id or ``package:NAME``.
        tokens: Longer pairs are cut, the longer of the two first.
        seed: Of the head.

    Raises:
        UserError: The model cannot be loaded, or reads fewer tokens.
    """
    torch.manual_seed(seed)
    with loading_explained(name, KEY):
        location = model_location(name, KEY)
        check_single_score(AutoConfig.from_pretrained(location, **guarded(location)), name, KEY)
        safe = {**guarded_modules(location), "device": compute_device()}
        encoder = reading_as_text(CrossEncoder(location, num_labels=1, max_length=tokens, **safe))
    check_length(encoder.model, name, "reranker.question_tokens + passage_tokens", tokens)
    return encoder


def check_single_score(config: Any, name: str, key: str) -> None:
    """Raise UserError where a model has a head with classes, as for entailment, and not with one score."""
    if is_classifier(config) and config.num_labels != 1:
        raise UserError(
            f"{key}: '{name}' gives {config.num_labels} classes, not one score. "
            "Choose a cross-encoder that ranks, or an encoder."
        )


def is_classifier(config: Any) -> bool:
    """Whether a model has learned to give a text or a pair of texts a score, or classes."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


class CrossReranker:
    """Scores passages for questions, each pair anew.

    Args:
        encoder: Gives a pair one number.
        texts: All passages' full texts; a position is an index into it.
        temperature: See `Reranker`.
    """

    def __init__(self, encoder: CrossEncoder, texts: Sequence[str], temperature: float = 1.0) -> None:
        self.encoder = encoder.eval()
        self.texts = texts
        self.temperature = temperature
        self.read: Compute[Pair, float] = self._read
        """Scores of pairs; several processes may share it."""
        self._at_once = AtOnce(
            _PAIRS_AT_ONCE, "pairs", "Lower reranker.passage_tokens, or take a smaller reranker.model."
        )

    def over(self, texts: Sequence[str]) -> CrossReranker:
        """The same reranker for another version of the documents."""
        return CrossReranker(self.encoder, texts, self.temperature)

    def prepare(self, positions: Sequence[int]) -> None:
        """Nothing of a passage can be computed ahead."""

    def score(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Scores of candidate passages, the best over a question's queries; see `Reranker.score`."""
        return [row.max(axis=0) for row in self.score_each(questions, positions)]

    def score_each(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """As `score`, but of each query: arrays (queries, candidates)."""
        scores: list[np.ndarray] = []
        with progress("read pairs", len(questions), "questions") as advance:
            for begin in range(0, len(questions), _QUESTIONS_AT_ONCE):
                block = slice(begin, begin + _QUESTIONS_AT_ONCE)
                scores += self._score(questions[block], positions[block])
                advance(len(questions[block]))
        return scores

    def _score(self, questions: Sequence[Queries], positions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        rows = list(zip(questions, positions, strict=True))
        pairs = [(query, self.texts[p]) for queries, row in rows for query in queries for p in row]
        flat = np.array(self.read(pairs), dtype=np.float32)
        ends = np.cumsum([len(queries) * len(row) for queries, row in rows])[:-1]
        return [
            part.reshape(len(queries), len(row))
            for part, (queries, row) in zip(np.split(flat, ends), rows, strict=True)
        ]

    def _read(self, pairs: Sequence[Pair]) -> Sequence[float]:
        def read(size: int) -> Any:
            settings = {"show_progress_bar": False, "activation_fn": torch.nn.Identity()}
            with autocast(self.encoder):
                return self.encoder.predict(list(pairs), batch_size=size, **settings)

        return list(self._at_once.run(read, len(pairs)))
