"""Training a reranker against the rationale's BM25 scores (KARD equation 4)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback

from kard.artifacts import write_json
from kard.errors import UserError
from kard.machine.precision import compute_dtype
from kard.models.training import SCHEDULERS, EpochOrder, OrderedTrainer, train, training_arguments
from kard.progress import say
from kard.recipe import RerankerSection
from kard.reranker.cross import CrossReranker
from kard.reranker.learners import CandidateSet, Collator, learner_of, merge_adapters
from kard.reranker.load import open_reranker
from kard.reranker.model import Reranker

EVALUATIONS_AN_EPOCH = 4


def train_reranker(
    reranker: Reranker | CrossReranker,
    sets: Sequence[CandidateSet],
    section: RerankerSection,
    seed: int,
    folder: Path,
    dev_hits: Callable[[], float] | None = None,
) -> Reranker | CrossReranker:
    """Train in place and write the encoder to ``folder/model``.

    Args:
        reranker: Untrained; with a frozen passage side its vectors must hold every candidate.
        sets: One a rationale.
        section: The recipe's ``reranker``.
        seed: Order of the examples, and which candidates a step sees where ``step_candidates`` limits them.
        folder: Gets ``model``, ``training.json`` (temperatures, loss curve), and checkpoints while training.
        dev_hits: How good the reranker is at the moment, needed for ``early_stopping``.

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
    order = _order(usable, section.batch_size, seed)
    trainer = _DevTrainer(
        model=kind(reranker.encoder, section, tau_rationale, tau_question),
        args=_arguments(section, seed, folder, len(usable)),
        train_dataset=usable,
        eval_dataset=usable[:1],
        data_collator=Collator(inputs, section.step_candidates, order),
        callbacks=[EarlyStoppingCallback(section.early_stopping)] if section.early_stopping else [],
        order=order,
    )
    trainer.dev_hits = dev_hits
    before = dev_hits() if dev_hits is not None and section.early_stopping else None
    untrained = _trained_weights(reranker.encoder) if before is not None else {}
    curve = train(trainer, "train reranker", section.checkpoint_minutes, "reranker")
    looks = [(row["step"], row["eval_hits"]) for row in trainer.state.log_history if "eval_hits" in row]
    if before is not None and max((hits for _, hits in looks), default=before) < before:
        say("  the untrained weights do better on the dev questions, and are kept")
        reranker.encoder.load_state_dict(untrained, strict=False)
    merge_adapters(reranker.encoder)
    reranker.encoder.eval().save_pretrained(str(folder / "model"), create_model_card=False)
    dev = [{"step": step, "hits": hits} for step, hits in [*([(0, before)] if before is not None else []), *looks]]
    temperatures = {"tau_rationale": tau_rationale, "tau_question": tau_question}
    write_json(folder / "training.json", {"rationales": len(usable), **temperatures, "loss": curve, "dev": dev})
    if section.train == "question" or isinstance(reranker, CrossReranker):
        return reranker
    shutil.rmtree(folder / "vectors", ignore_errors=True)  # of an earlier attempt
    return open_reranker(str(folder / "model"), section, folder / "vectors", reranker.vectors.texts)


def remove_checkpoints(folder: Path) -> None:
    """Remove what only an interrupted training needs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _trained_weights(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach().clone() for name, one in encoder.named_parameters() if one.requires_grad}


def _arguments(section: RerankerSection, seed: int, folder: Path, examples: int) -> Any:
    steps = max(1, examples // section.batch_size // EVALUATIONS_AN_EPOCH)
    # The best weights are found again among the checkpoints, so that one is written with every evaluation.
    stopping = {
        "eval_strategy": "steps",
        "eval_steps": steps,
        "save_strategy": "steps",
        "save_steps": steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "hits",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,  # how long nothing got better
    }
    return training_arguments(
        folder / "checkpoints",
        compute_dtype("auto"),
        seed,
        num_train_epochs=section.epochs,
        per_device_train_batch_size=section.batch_size,
        learning_rate=section.lr,
        lr_scheduler_type=SCHEDULERS[section.schedule],
        warmup_steps=section.warmup,
        **(stopping if section.early_stopping else {}),
    )


def _order(sets: Sequence[CandidateSet], batch_size: int, seed: int) -> EpochOrder:
    """Questions of similar length together, by their letters: less is computed for padding."""
    lengths = [max(map(len, row.queries)) for row in sets]
    return EpochOrder(lengths, batch_size, seed)


class _DevTrainer(OrderedTrainer):
    """A Trainer that is judged by how well it ranks, not by its loss."""

    dev_hits: Callable[[], float] | None = None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        assert self.dev_hits is not None
        metrics = {"eval_hits": self.dev_hits()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def spread(scores: Sequence[Sequence[float]]) -> float:
    """A temperature that fits the scores: their standard deviation within a candidate set, averaged over the sets."""
    return max(float(np.mean([np.std(row) for row in scores])), 1e-6)


def _untrained_spread(reranker: Reranker | CrossReranker, sets: Sequence[CandidateSet], sample: int = 64) -> float:
    if isinstance(reranker, CrossReranker):
        return 1.0  # its last layer learns its own scale
    some = sets[:: max(1, len(sets) // sample)]
    return spread(
        [row.tolist() for row in reranker.score([one.queries for one in some], [one.positions for one in some])]
    )
