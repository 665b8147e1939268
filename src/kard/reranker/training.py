"""Training the question side against the rationale's BM25 scores, with the passage side frozen (KARD equation 4)."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer

from kard.artifacts import write_json
from kard.errors import UserError
from kard.recipe import RerankerSection
from kard.reranker.model import Queries, Reranker
from kard.training import compute_dtype, train, training_arguments


@dataclass(frozen=True)
class CandidateSet:
    """One rationale's training example.

    Attributes:
        queries: The question as the reranker reads it.
        positions: Candidates D̃ without duplicates, as positions in the knowledge base.
        scores: The rationale's BM25 score ρ(d|r) of each candidate.
    """

    queries: Queries
    positions: tuple[int, ...]
    scores: tuple[float, ...]


def kl_loss(target: Tensor, scores: Tensor, present: Tensor, tau_rationale: float, tau_question: float) -> Tensor:
    """KL(Q ‖ P) with Q = softmax(target/τ1) and P = softmax(scores/τ2), averaged over rationales (KARD equation 4).

    Args:
        target: BM25 scores of the rationale, (rationales, candidates).
        scores: The reranker's scores, same shape.
        present: Which places hold a candidate, same shape, boolean.
        tau_rationale: τ1.
        tau_question: τ2.
    """
    absent = ~present
    log_q = functional.log_softmax((target / tau_rationale).masked_fill(absent, -math.inf), dim=-1)
    log_p = functional.log_softmax((scores / tau_question).masked_fill(absent, -math.inf), dim=-1)
    terms = log_q.exp() * (log_q - log_p)
    return terms.masked_fill(absent, 0.0).sum(dim=-1).mean()


def train_reranker(
    reranker: Reranker, sets: Sequence[CandidateSet], section: RerankerSection, seed: int, folder: Path
) -> None:
    """Train the question side in place and write the encoder to ``folder/model``.

    Args:
        reranker: Untrained; its vectors must hold every candidate.
        sets: One a rationale.
        section: The recipe's ``reranker``.
        seed: Order of the examples, and which candidates a step sees where ``step_candidates`` limits them.
        folder: Gets ``model``, ``training.json`` (temperatures, loss curve), and checkpoints while training.

    Raises:
        UserError: There is nothing to train on.
    """
    usable = [row for row in sets if len(row.positions) > 1]
    if not usable:
        raise UserError("reranker: no kept rationale finds two candidates. See 'kard show RUN rationales'.")
    torch.manual_seed(seed)
    tau_rationale = section.tau_rationale if section.tau_rationale != "auto" else spread([row.scores for row in usable])
    tau_question = section.tau_question if section.tau_question != "auto" else _untrained_spread(reranker, usable)
    arguments = training_arguments(
        folder / "checkpoints",
        compute_dtype("auto"),
        seed,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=section.batch_size,
        learning_rate=section.lr,
        warmup_steps=0.1,
    )
    model = QuestionSide(reranker.encoder, tau_rationale, tau_question, section.frozen_layers)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=usable,
        data_collator=Collator(reranker, section.step_candidates, seed),
    )
    curve = train(trainer, "train reranker", section.checkpoint_minutes)
    reranker.encoder.eval().save_pretrained(str(folder / "model"))
    temperatures = {"tau_rationale": tau_rationale, "tau_question": tau_question}
    write_json(folder / "training.json", {"rationales": len(usable), **temperatures, "loss": curve})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def spread(scores: Sequence[Sequence[float]]) -> float:
    """A temperature that fits the scores: their standard deviation within a candidate set, averaged over the sets."""
    return max(float(np.mean([np.std(row) for row in scores])), 1e-6)


def _untrained_spread(reranker: Reranker, sets: Sequence[CandidateSet], sample: int = 64) -> float:
    some = sets[:: max(1, len(sets) // sample)]
    return spread(
        [row.tolist() for row in reranker.score([one.queries for one in some], [one.positions for one in some])]
    )


class QuestionSide(nn.Module):
    """The trained half: question tokens against fixed passage vectors, and the loss."""

    def __init__(
        self, encoder: MultiVectorEncoder, tau_rationale: float, tau_question: float, frozen_layers: int = 0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tau_rationale = tau_rationale
        self.tau_question = tau_question
        encoder.requires_grad_(False)
        for module in query_modules(encoder):
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(not _is_frozen(name, frozen_layers))

    def train(self, mode: bool = True) -> QuestionSide:
        """Without dropout: the target is a full distribution, and the untrained scores are the starting point."""
        return super().train(False)

    def forward(
        self, features: dict[str, Tensor], queries_of: Tensor, passages: Tensor, mask: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            features: Tokenized queries, (queries, tokens).
            queries_of: Each question's rows in `features`, (questions, most queries), −1 where it has fewer.
            passages: Token vectors of the candidates, (questions, candidates, tokens, dimension).
            mask: Which of these tokens are real, (questions, candidates, tokens).
            target: BM25 scores of the rationale, (questions, candidates).
        """
        encoded = self.encoder({**features}, task="query")
        scores = late_interaction(encoded["token_embeddings"], encoded["attention_mask"], queries_of, passages, mask)
        loss = kl_loss(target, scores, mask.any(dim=-1), self.tau_rationale, self.tau_question)
        return {"loss": loss}


def _is_frozen(parameter: str, layers: int) -> bool:
    """Whether a parameter belongs to the lowest layers, or to the embeddings below them."""
    layer = re.search(r"\blayers?\.(\d+)\.", parameter)
    return layers > 0 and (int(layer[1]) < layers if layer else "embed" in parameter)


def late_interaction(queries: Tensor, query_mask: Tensor, queries_of: Tensor, passages: Tensor, mask: Tensor) -> Tensor:
    """Scores (questions, candidates): mean over query tokens of the best passage token, best over a question's queries.

    Args:
        queries: Token vectors, (queries, tokens, dimension).
        query_mask: Which of these tokens are real, (queries, tokens).
        queries_of: Each question's queries, (questions, most queries), −1 where it has fewer.
        passages: Token vectors of the candidates, (questions, candidates, tokens, dimension).
        mask: Which of these tokens are real, (questions, candidates, tokens).
    """
    own = queries[queries_of.clamp(min=0)]  # (questions, queries, tokens, dimension)
    similarity = torch.einsum("qatd,qcpd->qcatp", own, passages.to(queries.dtype)).float()
    best = similarity.masked_fill(~mask[:, :, None, None, :], -1e4).amax(dim=-1)
    weights = query_mask / query_mask.sum(dim=-1, keepdim=True)
    of_query = (best * weights[queries_of.clamp(min=0)][:, None]).sum(dim=-1)
    return of_query.masked_fill((queries_of < 0)[:, None, :], -math.inf).amax(dim=-1)


def query_modules(encoder: Any) -> list[nn.Module]:
    """The modules of the question side."""
    return list(encoder[0].sub_modules["query"])


@dataclass(frozen=True)
class Collator:
    """Builds a batch; which candidates a long set contributes depends on the seed and the set alone, not on the order."""

    reranker: Reranker
    step_candidates: int | None
    seed: int

    def __call__(self, rows: list[CandidateSet]) -> dict[str, Any]:
        rows = [self._sampled(row) for row in rows]
        texts = [text for row in rows for text in row.queries]
        features = self.reranker.encoder.preprocess(texts, task="query")
        queries_of = torch.full((len(rows), max(len(row.queries) for row in rows)), -1)
        first = 0
        for number, row in enumerate(rows):
            queries_of[number, : len(row.queries)] = torch.arange(first, first + len(row.queries))
            first += len(row.queries)
        passages, mask = self._passages([row.positions for row in rows])
        target = torch.zeros(mask.shape[:2])
        for number, row in enumerate(rows):
            target[number, : len(row.scores)] = torch.tensor(row.scores)
        tensors = {name: value for name, value in features.items() if isinstance(value, Tensor)}
        return {"features": tensors, "queries_of": queries_of, "passages": passages, "mask": mask, "target": target}

    def _sampled(self, row: CandidateSet) -> CandidateSet:
        if self.step_candidates is None or len(row.positions) <= self.step_candidates:
            return row
        chance = np.random.default_rng([self.seed, *row.positions])
        kept = chance.choice(len(row.positions), self.step_candidates, replace=False)
        return CandidateSet(row.queries, tuple(row.positions[i] for i in kept), tuple(row.scores[i] for i in kept))

    def _passages(self, positions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        vectors = [self.reranker.vectors.get(row) for row in positions]
        candidates = max(len(row) for row in vectors)
        tokens = max(len(one) for row in vectors for one in row)
        passages = np.zeros((len(vectors), candidates, tokens, self.reranker.vectors.dimension), dtype=np.float16)
        mask = np.zeros((len(vectors), candidates, tokens), dtype=bool)
        for number, row in enumerate(vectors):
            for place, one in enumerate(row):
                passages[number, place, : len(one)] = one
                mask[number, place, : len(one)] = True
        return torch.from_numpy(passages), torch.from_numpy(mask)
