"""The kinds of reranker and ways to train them: what moves, what is saved, that being stopped changes nothing."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, MultiVectorEncoder

from kard.errors import UserError
from kard.models.training import EpochOrder
from kard.recipe.sections import RerankerSection
from kard.reranker import adapters, learners
from kard.reranker.candidates import CandidateSet
from kard.reranker.cross import CrossReranker
from kard.reranker.learners import Collator, learner_of
from kard.reranker.load import new_reranker, open_reranker
from kard.reranker.training import train_reranker
from tests.conftest import project_rows

TEXTS = [f"{row['title']}. {row['text']}" for row in project_rows(30, 2)[1]]
QUESTIONS = [tuple(f"{row['question']} {choice}" for choice in row["choices"]) for row in project_rows(30, 2)[0]]
KINDS = {
    "question": {},
    "paper": {"interaction": "paper", "tau_question": 20.0},
    "cross": {"kind": "cross_encoder"},
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
    batch = Collator(inputs, None, EpochOrder([], 1, 0))(rows)
    present = batch["present"].numpy()
    batch.pop("target"), batch.pop("present")
    with torch.no_grad():
        scores = kind(reranker.encoder, section, 1.0, 1.0).scores(**batch).numpy()
    for row, mask, of_row in zip(scores, present, expected, strict=True):
        np.testing.assert_allclose(row[mask], of_row, rtol=1e-3, atol=2e-2)  # bf16 keeps three digits, or less


def test_training_moves_what_it_should_and_saves_an_ordinary_model(section, tmp_path):
    reranker = untrained(section, tmp_path)
    names_before, before = list(weights(reranker)), weights(reranker)
    # So much that no chance keeps the loss from sinking at some time.
    section = section.model_copy(update={"epochs": 8, "lr": 1e-2})
    train_reranker(reranker, sets(), section, 0, tmp_path)
    after = weights(reranker)
    assert list(after) == names_before  # no adapter is left
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved
    if section.learns_passages:  # adapters, and the linear layer on top, which is random
        assert all(name.split(".")[-2] in ("query", "value", "linear") for name in moved)
        assert any("linear" in name for name in moved)
    if section.kind == "late_interaction":
        assert not any("sub_modules.document" in name for name in moved)
    kind = CrossEncoder if section.kind == "cross_encoder" else MultiVectorEncoder
    kind(str(tmp_path / "model"))
    again = open_reranker(tmp_path / "model", section, tmp_path / "new", TEXTS)
    loaded = weights(again)
    assert all(torch.equal(value, loaded[name]) for name, value in after.items())
    if section.learns_passages:  # the vectors in memory are the untrained passage side's
        reranker = open_reranker(tmp_path / "model", section, tmp_path / "newer", TEXTS)
    questions, positions = [QUESTIONS[0], QUESTIONS[1]], [[3, 1, 4], [1, 5, 9, 2]]
    for old, new in zip(reranker.score(questions, positions), again.score(questions, positions), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-2)  # the vectors were encoded in other batches
    loss = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["loss"]
    assert min(one["loss"] for one in loss) < 0.8 * loss[0]["loss"]  # the last may be a jump of so high a rate


def test_resumed_training_equals_straight_training(section, tmp_path, monkeypatch):
    straight = untrained(section, tmp_path / "straight")
    train_reranker(straight, sets(), section, 0, tmp_path / "straight")
    steps = iter(range(100))
    loss = learners.kl_loss

    def dying(*arguments):
        if next(steps) == 5:
            raise KeyboardInterrupt
        return loss(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(learners, "kl_loss", dying)
        with pytest.raises(KeyboardInterrupt):
            train_reranker(untrained(section, tmp_path / "resumed"), sets(), section, 0, tmp_path / "resumed", 0.0)
    assert list((tmp_path / "resumed" / "checkpoints").glob("checkpoint-*"))
    resumed = untrained(section, tmp_path / "resumed")
    train_reranker(resumed, sets(), section, 0, tmp_path / "resumed")
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


def test_settings_that_contradict_each_other_are_refused():
    for settings in (
        {"kind": "cross_encoder", "interaction": "paper"},
        {"interaction": "paper", "frozen_layers": 1},
    ):
        with pytest.raises(ValueError, match=r"remove frozen_layers|set kind"):
            RerankerSection(**settings)


def test_lora_without_query_and_value_layers_is_an_error(encoder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "QUERY_AND_VALUE", "nothing")
    section = RerankerSection(model=str(encoder_folder), interaction="paper", question_tokens=24, passage_tokens=32)
    with pytest.raises(UserError, match=r"reranker\.interaction"):
        train_reranker(untrained(section, tmp_path), sets(), section, 0, tmp_path)


def test_a_t5s_encoder_is_trained_and_answers(t5_folder, tmp_path):
    changes = {"epochs": 2, "batch_size": 5, "lr": 1e-2, "frozen_layers": 1}
    section = RerankerSection(model=str(t5_folder), question_tokens=24, passage_tokens=32, **changes)
    reranker = untrained(section, tmp_path)
    before = weights(reranker)
    train_reranker(reranker, sets(), section, 0, tmp_path)
    moved = {name for name, value in weights(reranker).items() if not torch.equal(value, before[name])}
    assert {re.search(r"block\.(\d)", name)[1] for name in moved if "block" in name} == {"1"}
    assert not any("shared" in name or "embed" in name for name in moved)
    questions, positions = [QUESTIONS[0], QUESTIONS[1]], [[3, 1, 4], [1, 5, 9, 2]]
    answering = open_reranker(tmp_path / "model", section, tmp_path / "answering", TEXTS)
    for old, new in zip(reranker.score(questions, positions), answering.score(questions, positions), strict=True):
        np.testing.assert_allclose(old, new, atol=1e-2)


def test_frozen_layers_must_leave_one(encoder_folder, tmp_path):
    section = RerankerSection(model=str(encoder_folder), frozen_layers=2, question_tokens=24, passage_tokens=32)
    with pytest.raises(UserError, match=r"frozen_layers: 2 asked for, '.*' has 2 layers"):
        train_reranker(untrained(section, tmp_path), sets(), section, 0, tmp_path)


def test_classes_are_no_score(encoder_folder, tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(encoder_folder, num_labels=3)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "nli")
    AutoTokenizer.from_pretrained(encoder_folder).save_pretrained(tmp_path / "nli")
    section = RerankerSection(model=str(tmp_path / "nli"), kind="cross_encoder", question_tokens=24, passage_tokens=32)
    with pytest.raises(UserError, match=r"reranker\.model: '.*nli' gives 3 classes, not one score"):
        untrained(section, tmp_path)


def test_weights_that_are_no_numbers_are_not_saved(encoder_folder, tmp_path):
    section = RerankerSection(
        model=str(encoder_folder), lr=1e39, batch_size=40, question_tokens=24, passage_tokens=32, epochs=2
    )
    with pytest.raises(UserError, match=r"Lower reranker\.lr and run again"):
        train_reranker(untrained(section, tmp_path), sets(), section, 0, tmp_path)
    assert not (tmp_path / "model").exists()


def test_vectors_that_are_cut_off_are_named(encoder_folder, tmp_path):
    section = RerankerSection(model=str(encoder_folder), question_tokens=24, passage_tokens=32)
    path = untrained(section, tmp_path).vectors.path
    os.truncate(path, 100)
    with pytest.raises(UserError, match=r"places\.i64: is damaged\. Remove .*vectors: it is made again"):
        new_reranker(section, tmp_path / "vectors", TEXTS, 0)


def test_the_papers_score_is_a_sum_of_dot_products_of_one_models_linear_layer(encoder_folder, tmp_path):
    lengths = {"question_tokens": 8, "passage_tokens": 32}
    section = RerankerSection(model=str(encoder_folder), interaction="paper", **lengths)
    reranker = untrained(section, tmp_path)
    queries, positions = [QUESTIONS[0][:2]], [[3, 1, 4]]
    [scores] = reranker.score(queries, positions)
    transformer, linear, _ = reranker.encoder
    tokenizer = transformer.tokenizer

    def tokens(text: str, most: int) -> torch.Tensor:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
        return linear.linear(transformer.auto_model(**inputs).last_hidden_state[0])

    with torch.no_grad():
        by_hand = [
            max(float((tokens(q, 8) @ tokens(TEXTS[p], 32).T).amax(dim=1).sum()) for q in queries[0])
            for p in positions[0]
        ]
    np.testing.assert_allclose(scores, by_hand, rtol=2e-2, atol=2e-2)
    again = untrained(section, tmp_path / "again")
    np.testing.assert_array_equal(again.score(queries, positions)[0], scores)
    other = new_reranker(section, tmp_path / "other", TEXTS, 1)
    assert not np.allclose(other.score(queries, positions)[0], scores)


@pytest.mark.parametrize("interaction", ["normalized", "paper"])
def test_the_learning_rate_falls_or_stays(interaction, encoder_folder, tmp_path, monkeypatch):
    from kard.reranker import training

    seen = []
    lengths = {"question_tokens": 24, "passage_tokens": 32}
    section = RerankerSection(model=str(encoder_folder), epochs=3, batch_size=5, interaction=interaction, **lengths)
    train = training.train

    def watched(trainer, *rest):
        found = train(trainer, *rest)
        seen.extend(row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row)
        return found

    monkeypatch.setattr(training, "train", watched)
    train_reranker(untrained(section, tmp_path), sets(), section, 0, tmp_path)
    assert len(seen) == 12
    assert max(seen) == pytest.approx(1e-4)
    assert seen[0] < seen[2]
    assert (seen[-1] < 2e-5) == (interaction == "normalized")
