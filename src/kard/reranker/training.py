"""Training a reranker against the rationale's BM25 scores (KARD equation 4)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kard.artifacts.files import write_json
from kard.errors import UserError
from kard.models.training import (
    CHECKPOINT_MINUTES,
    SCHEDULERS,
    EpochOrder,
    OrderedTrainer,
    train,
    training_arguments,
)
from kard.recipe.sections import RerankerSection
from kard.reranker.adapters import merge_adapters
from kard.reranker.candidates import CandidateSet
from kard.reranker.cross import CrossReranker
from kard.reranker.learners import Collator, learner_of
from kard.reranker.load import open_reranker
from kard.reranker.model import Reranker, encoder_dtype


def train_reranker(
    reranker: Reranker | CrossReranker,
    sets: Sequence[CandidateSet],
    section: RerankerSection,
    seed: int,
    folder: Path,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> Reranker | CrossReranker:
    """Train in place and write the encoder to ``folder/model``.

    Args:
        reranker: Untrained; with a frozen passage side its vectors must hold every candidate.
        sets: One a rationale.
        section: The recipe's ``reranker``.
        seed: Order of the examples, and which candidates a step sees where ``step_candidates`` limits them.
        folder: Gets ``model``, ``training.json`` (temperatures, loss curve), and checkpoints while training.
        checkpoint_minutes: How much work a killed process may lose.

    Returns:
        The trained reranker; where the passage side was trained, with new vectors in ``folder/vectors``. The checkpoints are
        still there, so that a killed process need not train again: the caller removes them (`remove_checkpoints`).

    Raises:
        UserError: There is nothing to train on.
    """
    usable = [row for row in sets if len(row.positions) > 1]
    if not usable:
        raise UserError("reranker: no kept rationale finds two candidates. See 'kard show RUN rationales'.")
    torch.manual_seed(seed)
    tau_rationale = section.tau_rationale if section.tau_rationale != "auto" else spread([row.scores for row in usable])
    tau_question = section.tau_question if section.tau_question != "auto" else _untrained_spread(reranker, usable)
    kind, inputs = learner_of(reranker, section)
    # Questions of similar length together, by their letters: less is computed for padding.
    lengths = [max(map(len, row.queries)) for row in usable]
    order = EpochOrder(lengths, section.batch_size, seed)
    trainer = OrderedTrainer(
        model=kind(reranker.encoder, section, tau_rationale, tau_question),
        args=training_arguments(
            folder / "checkpoints",
            encoder_dtype(reranker.encoder),
            seed,
            num_train_epochs=section.epochs,
            per_device_train_batch_size=section.batch_size,
            learning_rate=section.lr,
            lr_scheduler_type=SCHEDULERS["constant" if section.learns_passages else "linear"],
            warmup_steps=0.05 if section.learns_passages else 0.1,
        ),
        train_dataset=usable,
        data_collator=Collator(inputs, section.step_candidates, order),
        order=order,
    )
    curve = train(trainer, "train reranker", checkpoint_minutes, "reranker")
    merge_adapters(reranker.encoder)
    reranker.encoder.eval().save_pretrained(str(folder / "model"), create_model_card=False)
    temperatures = {"tau_rationale": tau_rationale, "tau_question": tau_question}
    write_json(folder / "training.json", {"rationales": len(usable), **temperatures, "loss": curve})
    if isinstance(reranker, CrossReranker) or not section.learns_passages:
        return reranker
    shutil.rmtree(folder / "vectors", ignore_errors=True)  # of an earlier attempt
    return open_reranker(folder / "model", section, folder / "vectors", reranker.vectors.texts)


def remove_checkpoints(folder: Path) -> None:
    """Remove what only an interrupted training needs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def spread(scores: Sequence[Sequence[float]]) -> float:
    """A temperature that fits the scores: their standard deviation within a candidate set, averaged over the sets."""
    return max(float(np.mean([np.std(row) for row in scores])), 1e-6)


def _untrained_spread(reranker: Reranker | CrossReranker, sets: Sequence[CandidateSet], sample: int = 64) -> float:
    if isinstance(reranker, CrossReranker):
        return 1.0  # its last layer learns its own scale
    some = sets[:: max(1, len(sets) // sample)]
    scores = reranker.score([one.queries for one in some], [one.positions for one in some])
    return spread([row.tolist() for row in scores])
