"""The reranker: the loss against plain torch, candidates by hand, scores that depend on nothing else, vectors on disk."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import MultiVectorEncoder

from kard.errors import UserError
from kard.models.training import EpochOrder
from kard.recipe.sections import RerankerSection
from kard.reranker.candidates import CandidateSet
from kard.reranker.learners import Collator, kl_loss, late_interaction, learner_of
from kard.reranker.model import Reranker, new_encoder, passage_vectors
from kard.reranker.training import spread, train_reranker
from kard.reranker.vectors import PassageVectors, packed, unpacked
from kard.stages.candidates import candidate_positions
from tests.conftest import project_rows

TEXTS = [f"{row['title']}. {row['text']}" for row in project_rows(30, 2)[1]]
QUESTIONS = [tuple(f"{row['question']} {choice}" for choice in row["choices"]) for row in project_rows(30, 2)[0]]


@pytest.fixture
def reranker(encoder_folder, tmp_path) -> Reranker:
    encoder = new_encoder(RerankerSection(model=str(encoder_folder), question_tokens=32, passage_tokens=32), 0)
    return Reranker(encoder, passage_vectors(encoder, tmp_path / "vectors", TEXTS))


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 50), st.floats(-2, 2)), min_size=2, max_size=6), min_size=1, max_size=4),
    st.floats(0.5, 10),
    st.floats(0.05, 2),
)
@settings(max_examples=60, deadline=None)
def test_kl_is_what_torch_computes_for_each_set(sets, tau_rationale, tau_question):
    width = max(map(len, sets))
    present = torch.tensor([[place < len(row) for place in range(width)] for row in sets])
    target, scores = (
        torch.tensor([[row[place][side] if place < len(row) else 99.0 for place in range(width)] for row in sets])
        for side in (0, 1)
    )
    expected = []
    for row in sets:
        pairs = torch.tensor(row, dtype=torch.float64)
        q = torch.softmax(pairs[:, 0] / tau_rationale, dim=0)
        p = torch.log_softmax(pairs[:, 1] / tau_question, dim=0)
        expected.append(torch.nn.functional.kl_div(p, q, reduction="sum").item())
    loss = kl_loss(target, scores, present, tau_rationale, tau_question)
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-4)


def test_candidates_by_hand():
    """κ1 = 3 by rationale, κ2 = 3 by question, one in both: five, those by rationale first."""
    assert candidate_positions([7, 2, 9], [2, 4, 1]) == [7, 2, 9, 4, 1]
    assert candidate_positions([], [3]) == [3]


def test_late_interaction_by_hand():
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [5.0, 5.0]]])
    query_mask = torch.tensor([[True, True], [True, False]])  # the second query has one token
    passages = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]], [[0.2, 0.9], [9.0, 9.0]]]])
    mask = torch.tensor([[[True, True], [True, False]]])  # the second passage has one token
    each = late_interaction(queries, query_mask, torch.tensor([[0, -1]]), passages, mask)
    torch.testing.assert_close(each, torch.tensor([[(1 + 0.5) / 2, (0.2 + 0.9) / 2]]))
    best = late_interaction(queries, query_mask, torch.tensor([[0, 1]]), passages, mask)
    torch.testing.assert_close(best, torch.tensor([[1.0, 0.55]]))


def test_scores_agree_with_sentence_transformers(reranker):
    positions = [3, 11, 4]
    [ours] = reranker.score([QUESTIONS[0][:1]], [positions])
    query = reranker.encoder.encode_query([QUESTIONS[0][0]])
    passages = reranker.encoder.encode_document([TEXTS[p] for p in positions])
    theirs = reranker.encoder.similarity(query, passages)[0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-2)  # passage vectors are kept in float16


def test_training_and_scoring_agree(reranker):
    rows = [CandidateSet(QUESTIONS[i], (i, i + 1, i + 5), (3.0, 2.0, 1.0)) for i in range(4)]
    reranker.vectors.ensure(range(20))
    _, inputs = learner_of(reranker, RerankerSection())
    batch = Collator(inputs, None, EpochOrder([], 1, 0))(rows)
    with torch.no_grad():
        encoded = reranker.encoder(dict(batch["questions"]), task="query")
        scores = late_interaction(
            encoded["token_embeddings"],
            encoded["attention_mask"],
            batch["queries_of"],
            batch["passages"],
            batch["mask"],
        )
    expected = reranker.score([row.queries for row in rows], [row.positions for row in rows])
    np.testing.assert_allclose(scores.numpy(), np.stack(expected), atol=2e-2)


def test_scores_do_not_depend_on_batch_padding_or_order(reranker):
    positions = [list(range(10)), [5, 3], [29], list(range(20, 30)), []]
    questions = [QUESTIONS[0], QUESTIONS[1][:1], (QUESTIONS[2][0] * 3,), QUESTIONS[3], QUESTIONS[4]]
    together = reranker.score(questions, positions)
    for number, (question, row) in enumerate(zip(questions, positions, strict=True)):
        [alone] = reranker.score([question], [row[::-1]])
        np.testing.assert_allclose(alone[::-1], together[number], atol=1e-2)
    assert together[4].shape == (0,)


def sets_for_training() -> list[CandidateSet]:
    """The rationale's favourite, the last candidate, is one that words do not give away."""
    chance = np.random.default_rng(0)
    rows = []
    for number, queries in enumerate(QUESTIONS):
        favourite = (number * 7 + 3) % len(TEXTS)
        others = [int(p) for p in chance.permutation(len(TEXTS)) if p != favourite][:5]
        rows.append(CandidateSet(queries[:1], (*others, favourite), (1.0, 2.0, 0.0, 1.5, 0.5, 20.0)))
    return rows


def mean_rank(reranker) -> float:
    """How many candidates stand before the rationale's favourite, on average."""
    rows = sets_for_training()
    scores = reranker.score([row.queries for row in rows], [row.positions for row in rows])
    return float(np.mean([(of_set > of_set[-1]).sum() for of_set in scores]))


def test_training_moves_the_rationales_passage_up_and_saves_an_ordinary_model(reranker, tmp_path):
    reranker.vectors.ensure(range(len(TEXTS)))
    before = mean_rank(reranker)
    passages_before = [v.copy() for v in reranker.vectors.get(range(5))]
    section = RerankerSection(model="x", epochs=15, batch_size=6, lr=3e-3, tau_rationale=2.0, tau_question=0.05)
    train_reranker(reranker, sets_for_training(), section, 0, tmp_path / "out")
    assert mean_rank(reranker) < before - 0.5
    loaded = MultiVectorEncoder(str(tmp_path / "out" / "model"))
    again = Reranker(loaded, passage_vectors(loaded, tmp_path / "vectors", TEXTS))
    for old, new in zip(passages_before, loaded.encode_document(TEXTS[:5]), strict=True):
        np.testing.assert_allclose(old, new.numpy(), atol=2e-2)  # the passage side is as it was
    assert mean_rank(again) == mean_rank(reranker)
    training = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert training["loss"][-1]["loss"] < training["loss"][0]["loss"]


@pytest.mark.parametrize("layers", [0, 1])
def test_frozen_layers_stay_as_they_are(layers, reranker, tmp_path):
    before = {name: value.clone() for name, value in reranker.encoder.named_parameters()}
    reranker.vectors.ensure(range(len(TEXTS)))
    section = RerankerSection(model="unused", epochs=2, batch_size=4, lr=1e-3, frozen_layers=layers)
    train_reranker(reranker, sets_for_training(), section, 0, tmp_path)
    moved = {name for name, value in reranker.encoder.named_parameters() if not torch.equal(value, before[name])}
    assert all("sub_modules.query" in name for name in moved)  # the passage side never moves
    assert any("layer.1." in name for name in moved)
    assert any("layer.0." in name or "embeddings" in name for name in moved) == (layers == 0)


def test_candidates_of_a_step_are_drawn_anew_each_epoch_half_from_each_side():
    row = CandidateSet(("q",), tuple(range(100, 164)), tuple(map(float, range(64))), by_rationale=32)
    order = EpochOrder([], 1, 4)
    collator, seen = Collator(lambda rows: {}, 8, order), set()
    for epoch in range(60):
        order.set_epoch(epoch)
        drawn = collator.sampled(row)
        assert drawn == collator.sampled(row)
        assert sum(position < 132 for position in drawn.positions) == 4
        assert len(set(drawn.positions)) == len(drawn.scores) == 8
        assert all(score == position - 100 for position, score in zip(drawn.positions, drawn.scores, strict=True))
        seen |= set(drawn.positions)
    assert seen == set(row.positions)


@pytest.mark.parametrize(("by_rationale", "first"), [(0, 0), (2, 2), (9, 6), (5, 4)])
def test_a_side_with_too_few_candidates_is_filled_up_by_the_other(by_rationale, first):
    row = CandidateSet(("q",), tuple(range(11)), (0.0,) * 11, by_rationale)
    drawn = Collator(lambda rows: {}, 8, EpochOrder([], 1, 0)).sampled(row).positions
    assert len(set(drawn)) == 8
    assert sum(position < by_rationale for position in drawn) == first


def test_nothing_to_train_on_is_an_error(reranker, tmp_path):
    with pytest.raises(UserError, match="two candidates"):
        train_reranker(reranker, [CandidateSet(("q",), (1,), (1.0,))], RerankerSection(), 0, tmp_path)


def test_spread_is_the_mean_deviation_within_sets():
    assert spread([[0.0, 2.0], [5.0, 5.0]]) == 0.5


def count_encode(calls):
    def encode(texts):
        calls.append(list(texts))
        return [np.full((len(text.split()), 4), len(text), dtype=np.float32) for text in texts]

    return encode


def test_vectors_are_computed_once(tmp_path):
    calls: list = []
    texts = [f"a text number {number}" + " word" * number for number in range(10)]
    store = PassageVectors(tmp_path / "v", texts, 4, count_encode(calls))
    store.ensure([3, 1, 3])
    store.ensure([1, 3])
    assert sum(map(len, calls)) == 2
    again = PassageVectors(tmp_path / "v", texts, 4, count_encode(calls))
    again.ensure([1, 3, 5])
    assert sum(map(len, calls)) == 3
    for position in (1, 3, 5):
        [tokens] = again.get([position])
        assert tokens.shape == (len(texts[position].split()), 4)
        assert (tokens == len(texts[position])).all()


def test_vectors_survive_a_torn_write(tmp_path):
    calls: list = []
    texts = [f"text {number}" for number in range(4)]
    store = PassageVectors(tmp_path / "v", texts, 4, count_encode(calls))
    store.ensure([0, 1])
    with open(tmp_path / "v" / "tokens.fp16", "ab") as file:
        file.write(b"torn" * 5)
    with open(tmp_path / "v" / "places.i64", "ab") as file:
        file.write(b"half a row")
    again = PassageVectors(tmp_path / "v", texts, 4, count_encode(calls))
    again.ensure([0, 1, 2])
    assert [len(call) for call in calls] == [2, 1]
    assert (again.get([2])[0] == len(texts[2])).all()
    assert (again.get([0])[0] == len(texts[0])).all()


def test_several_share_the_vectors_and_nothing_is_lost(tmp_path):
    """Stores as of several processes, each asking for its own passages at once; in the end each reads all of them rightly."""
    texts = [f"text {number}" + " word" * (number % 7) for number in range(400)]
    calls: list = []
    stores = [PassageVectors(tmp_path / "v", texts, 4, count_encode(calls)) for _ in range(6)]

    def fill(number: int) -> None:
        for begin in range(number * 20, 400, 30):
            stores[number].ensure(range(begin, min(begin + 50, 400)))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(fill, range(6)))
    for store in [*stores, PassageVectors(tmp_path / "v", texts, 4, count_encode(calls))]:
        store.ensure(range(400))
        for position, tokens in enumerate(store.get(range(400))):
            assert tokens.shape == (len(texts[position].split()), 4)
            assert (tokens == len(texts[position])).all()
    encoded = [text for call in calls for text in call]
    assert len(encoded) < 1.2 * len(set(encoded)), "what another one has encoded is not encoded again"


def test_complete_vectors_may_be_read_only_and_missing_ones_say_so(tmp_path, monkeypatch):
    texts = ["a", "b c", "d"]
    PassageVectors(tmp_path / "v", texts, 4, count_encode([])).ensure([0, 1])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store = PassageVectors(tmp_path / "v", texts, 4, count_encode([]))
    store.ensure([0, 1])
    with pytest.raises(UserError, match=r"passage vectors are missing, and it cannot be written\. Make it writable"):
        store.ensure([2])


def test_an_unknown_encoder_names_the_key():
    with pytest.raises(UserError, match=r"reranker\.model"):
        new_encoder(RerankerSection(model="./nowhere"), 0)


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 30))
@settings(max_examples=40, deadline=None)
def test_int8_is_off_by_half_a_step_at_most(seed, size):
    tokens = np.random.default_rng(seed).standard_normal((5, 16)).astype(np.float32) * size
    tokens[0] = 0
    again = unpacked(packed(tokens, "int8"))
    step = np.abs(tokens).max(axis=1, keepdims=True) / 127
    assert (np.abs(again - tokens) <= 0.56 * step + 1e-6).all()  # half a step, and the rounding of the step itself
    assert packed(tokens, "int8").nbytes == 5 * 18
    np.testing.assert_allclose(unpacked(packed(tokens, "fp16")), tokens, rtol=1e-3, atol=1e-6)


def test_the_cost_of_a_score_does_not_grow_with_the_passages(tmp_path, monkeypatch):
    """Neither with all of them, nor with those that have vectors, where a vector is missing; counted in array elements."""
    handled = []
    for name in ("unique", "concatenate", "searchsorted", "isin", "argsort", "sort"):

        def counting(*given, original=None, **more):
            handled.append(sum(map(np.size, given[0])) if isinstance(given[0], list | tuple) else np.size(given[-1]))
            return original(*given, **more)

        monkeypatch.setattr(f"kard.reranker.vectors.np.{name}", partial(counting, original=getattr(np, name)))
    texts = [f"text {number}" for number in range(20_000)]
    store = PassageVectors(tmp_path, texts, 4, lambda some: [np.ones((1, 4), dtype=np.float16)] * len(some))
    store.ensure(range(10_000))
    again = PassageVectors(tmp_path, texts, 4, lambda some: [np.full((2, 4), 2, dtype=np.float16)] * len(some))
    handled.clear()
    for position in range(10_000, 10_020):
        again.ensure([5, position])
        assert [len(one) for one in again.get([5, position])] == [1, 2]
    assert max(handled) <= 64
    assert not PassageVectors(tmp_path, texts, 4, again.encode).has[10_020:].any()
    other = PassageVectors(tmp_path, texts, 4, again.encode)
    other.ensure(range(10_020, 20_000))  # so many are sorted again
    assert [len(one) for one in other.get([0, 10_010, 19_999])] == [1, 2, 2]
    assert other.has.all()


def test_int8_vectors_score_nearly_as_fp16_ones(encoder_folder, tmp_path):
    encoder = new_encoder(RerankerSection(model=str(encoder_folder), question_tokens=32, passage_tokens=32), 0)
    full, small = (
        Reranker(encoder, passage_vectors(encoder, tmp_path / form, TEXTS, form)) for form in ("fp16", "int8")
    )
    positions = [list(range(20))] * 3
    for a, b in zip(full.score(QUESTIONS[:3], positions), small.score(QUESTIONS[:3], positions), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)
    assert small.vectors.path.stat().st_size < 0.6 * full.vectors.path.stat().st_size
    assert full.vectors.bytes_per_passage == full.vectors.path.stat().st_size / 20
