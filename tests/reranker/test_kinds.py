"""The kinds of reranker and ways to train them: what moves, what is saved, that being stopped changes nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder

from kard.errors import UserError
from kard.recipe import RerankerSection
from kard.reranker import learners, new_reranker, open_reranker
from kard.reranker.cross import CrossReranker
from kard.reranker.learners import CandidateSet, Collator, learner_of
from kard.reranker.model import trained_reranker
from kard.reranker.training import train_reranker
from tests.conftest import project_rows

TEXTS = [f"{row['title']}. {row['text']}" for row in project_rows(30, 2)[1]]
QUESTIONS = [tuple(f"{row['question']} {choice}" for choice in row["choices"]) for row in project_rows(30, 2)[0]]
KINDS = {
    "question": {},
    "question, lora": {"method": "lora"},
    "both": {"train": "both"},
    "both, lora": {"train": "both", "method": "lora"},
    "cross": {"kind": "cross_encoder"},
    "cross, lora": {"kind": "cross_encoder", "method": "lora"},
}


@pytest.fixture(params=KINDS)
def section(request, encoder_folder) -> RerankerSection:
    changes = {"epochs": 4, "batch_size": 5, "lr": 3e-3, "tau_rationale": 2.0, "question_tokens": 24} | KINDS[
        request.param
    ]
    return RerankerSection(model=str(encoder_folder), passage_tokens=32, **changes)


def sets() -> list[CandidateSet]:
    chance = np.random.default_rng(0)
    rows = []
    for number, queries in enumerate(QUESTIONS[:20]):
        others = [int(p) for p in chance.permutation(len(TEXTS)) if p != number][: 2 + number % 3]
        rows.append(CandidateSet(queries[: 1 + number % 2], (*others, number), (*map(float, range(len(others))), 9.0)))
    return rows


def untrained(section, folder):
    reranker = new_reranker(section, folder / "vectors", TEXTS, 0)
    reranker.prepare(range(len(TEXTS)))
    return reranker


def weights(reranker) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in reranker.encoder.named_parameters()}


def test_a_step_scores_as_scoring_does(section, tmp_path):
    reranker = untrained(section, tmp_path)
    rows = sets()[:6]
    expected = reranker.score([row.queries for row in rows], [row.positions for row in rows])
    kind, inputs = learner_of(reranker, section)
    batch = Collator(inputs, None, 0)(rows)
    present = batch["present"].numpy()
    batch.pop("target"), batch.pop("present")
    with torch.no_grad():
        scores = kind(reranker.encoder, section, 1.0, 1.0).scores(**batch).numpy()
    for row, mask, of_row in zip(scores, present, expected, strict=True):
        np.testing.assert_allclose(row[mask], of_row, atol=2e-2)


def test_training_moves_what_it_should_and_saves_an_ordinary_model(section, tmp_path):
    reranker = untrained(section, tmp_path)
    names_before, before = list(weights(reranker)), weights(reranker)
    # So much that no chance keeps the loss from sinking.
    section = section.model_copy(update={"epochs": 8, "lr": 3e-2 if section.method == "lora" else 1e-2})
    train_reranker(reranker, sets(), section, 0, tmp_path)
    after = weights(reranker)
    assert list(after) == names_before  # no adapter is left
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    if section.method == "lora":
        assert all(name.split(".")[-2] in ("query", "value") for name in moved)
    if section.kind == "late_interaction":
        assert any("sub_modules.document" in name for name in moved) == (section.train == "both")
    kind = CrossEncoder if section.kind == "cross_encoder" else MultiVectorEncoder
    kind(str(tmp_path / "model"))
    again = open_reranker(str(tmp_path / "model"), section, tmp_path / "new", TEXTS)
    loaded = weights(again)
    assert all(torch.equal(value, loaded[name]) for name, value in after.items())
    if section.train == "both":  # the vectors in memory are the untrained passage side's
        reranker = open_reranker(str(tmp_path / "model"), section, tmp_path / "newer", TEXTS)
    questions, positions = [QUESTIONS[0], QUESTIONS[1]], [[3, 1, 4], [1, 5, 9, 2]]
    for old, new in zip(reranker.score(questions, positions), again.score(questions, positions), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-2)  # the vectors were encoded in other batches
    if section.kind == "late_interaction":  # its question side alone
        answering = trained_reranker(tmp_path / "model", tmp_path / "answering", TEXTS, section.vectors)
        for old, new in zip(again.score(questions, positions), answering.score(questions, positions), strict=True):
            np.testing.assert_array_equal(old, new)
    loss = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["loss"]
    assert loss[-1]["loss"] < loss[0]["loss"]


def test_resumed_training_equals_straight_training(section, tmp_path, monkeypatch):
    straight = untrained(section, tmp_path / "straight")
    train_reranker(straight, sets(), section, 0, tmp_path / "straight")
    steps = iter(range(100))
    loss = learners.kl_loss

    def dying(*arguments):
        if next(steps) == 5:
            raise KeyboardInterrupt
        return loss(*arguments)

    often = section.model_copy(update={"checkpoint_minutes": 1e-9})
    with monkeypatch.context() as patch:
        patch.setattr(learners, "kl_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train_reranker(untrained(often, tmp_path / "resumed"), sets(), often, 0, tmp_path / "resumed")
    assert list((tmp_path / "resumed" / "checkpoints").glob("checkpoint-*"))
    resumed = untrained(often, tmp_path / "resumed")
    train_reranker(resumed, sets(), often, 0, tmp_path / "resumed")
    expected = weights(straight)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_a_cross_encoders_scores_depend_on_nothing_else(encoder_folder, tmp_path):
    section = RerankerSection(model=str(encoder_folder), kind="cross_encoder", question_tokens=24, passage_tokens=32)
    reranker = untrained(section, tmp_path)
    assert isinstance(reranker, CrossReranker)
    positions = [list(range(12)), [5, 3], [29], []]
    together = reranker.score(QUESTIONS[:4], positions)
    for question, row, scores in zip(QUESTIONS, positions, together, strict=False):
        [alone] = reranker.score([question], [row[::-1]])
        np.testing.assert_allclose(alone[::-1], scores, atol=1e-2)
    by_hand = reranker.encoder.predict([(query, TEXTS[3]) for query in QUESTIONS[1]], activation_fn=torch.nn.Identity())
    assert together[1][1] == pytest.approx(by_hand.max(), abs=1e-2)


def test_early_stopping_keeps_the_best_weights(encoder_folder, tmp_path):
    section = RerankerSection(
        model=str(encoder_folder),
        epochs=5,
        batch_size=5,
        lr=1e-2,
        early_stopping=2,
        question_tokens=24,
        passage_tokens=32,
    )
    reranker = untrained(section, tmp_path)
    hits = iter([0.3, 0.6, 0.5, 0.6, 0.9, 0.9])
    seen = []

    def dev_hits() -> float:
        seen.append(weights(reranker))
        return next(hits)

    train_reranker(reranker, sets(), section, 0, tmp_path, dev_hits)
    assert len(seen) == 4  # two looks without a better one
    assert all(torch.equal(value, seen[1][name]) for name, value in weights(reranker).items())
    dev = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["dev"]
    assert [row["hits"] for row in dev] == [0.3, 0.6, 0.5, 0.6]


def test_settings_that_contradict_each_other_are_refused():
    for settings in (
        {"kind": "cross_encoder", "encode_ahead": 10},
        {"kind": "cross_encoder", "train": "both"},
        {"train": "both", "early_stopping": 2},
    ):
        with pytest.raises(ValueError, match=r"remove|set train"):
            RerankerSection(**settings)


def test_lora_without_query_and_value_layers_is_an_error(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(learners, "_QUERY_AND_VALUE", "nothing")
    section = RerankerSection(model=str(encoder_folder), method="lora", question_tokens=24, passage_tokens=32)
    with pytest.raises(UserError, match=r"reranker\.method"):
        train_reranker(untrained(section, tmp_path), sets(), section, 0, tmp_path)
