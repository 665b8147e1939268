"""Every backend finds what it should: BM25 of Milvus as ours, vectors by cosine, both together by their ranks."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from kard.errors import UserError
from kard.recipe.sections import RetrieverSection
from kard.retrieval.hybrid import fuse
from kard.retrieval.index import build_retriever, load_retriever
from tests.conftest import COLOURS, PLACES, THINGS

TEXTS = [
    f"The {thing} of the {place} is {COLOURS[(i * j) % 8]}."
    for i, thing in enumerate(THINGS)
    for j, place in enumerate(PLACES)
]
QUERIES = ["red stone", "the bird of the north", "zebra", "", "blue house in the harbour valley"]


def section(kind: str, encoder="", **more) -> RetrieverSection:
    return RetrieverSection(kind=kind, language="english", encoder=str(encoder), **more)


def as_pairs(hits) -> list[tuple[int, float]]:
    return list(zip(hits.positions.tolist(), hits.scores.tolist(), strict=True))


@pytest.fixture(scope="module")
def milvus(tmp_path_factory):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    folder = tmp_path_factory.mktemp("milvus")
    own = section("bm25", milvus=str(folder / "own.db"))
    build_retriever(own, TEXTS, folder / "index.partial")
    (folder / "index.partial").rename(folder / "index")
    return load_retriever(own, folder / "index")


def test_milvus_scores_as_bm25(milvus, tmp_path):
    build_retriever(section("bm25"), TEXTS, tmp_path)
    ours = load_retriever(section("bm25"), tmp_path)
    for theirs, own in zip(milvus.search(QUERIES, 72), ours.search(QUERIES, 72), strict=True):
        assert sorted(theirs.positions.tolist()) == sorted(own.positions.tolist())
        expected = dict(as_pairs(own))
        # Milvus multiplies by k1 + 1, and its average length may be that of another moment.
        ratios = [score / expected[place] for place, score in as_pairs(theirs)]
        assert max(ratios, default=1) == pytest.approx(min(ratios, default=1), rel=1e-3)


def test_milvus_scores_of_given_passages_are_those_of_the_search(milvus):
    [hits] = milvus.search(["red stone"], 10)
    [scores] = milvus.scores(["red stone"], [[*hits.positions.tolist(), 71]])
    assert scores[:-1].tolist() == pytest.approx(hits.scores.tolist())


@pytest.fixture(scope="module")
def dense(tmp_path_factory, encoder_folder):
    pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("dense")
    build_retriever(section("dense", encoder_folder), TEXTS, folder)
    return load_retriever(section("dense", encoder_folder), folder), folder


def test_dense_finds_the_nearest_vectors(dense):
    retriever, _ = dense
    [hits] = retriever.search([TEXTS[5]], 7)
    assert len(hits.positions) == 7
    [every] = retriever.scores([TEXTS[5]], [range(72)])
    assert hits.scores.tolist() == pytest.approx(sorted(every.tolist(), reverse=True)[:7], abs=1e-3)
    assert hits.scores.tolist() == sorted(hits.scores.tolist(), reverse=True)
    assert len(retriever.search(["red"], 1000)[0].positions) == 72
    assert retriever.search([], 5) == []


def left(whole, allowed, k: int) -> list[int]:
    return [place for place in whole.positions.tolist() if allowed[place]][:k]


FEW, MOST = np.arange(72) % 24 == 5, np.arange(72) % 9 != 5


@pytest.mark.parametrize("allowed", [FEW, MOST])
def test_dense_finds_the_nearest_of_the_allowed(dense, tmp_path, encoder_folder, monkeypatch, allowed):
    """Also among clusters, of which only some are looked into otherwise."""
    from kard.retrieval import dense as module

    exact, folder = dense
    monkeypatch.setattr(module, "_EXACT", 10)
    shutil.copy(folder / "vectors.f16", tmp_path)
    build_retriever(section("dense", encoder_folder), TEXTS, tmp_path)
    clusters = load_retriever(section("dense", encoder_folder), tmp_path)
    assert clusters.index.nprobe < clusters.index.nlist
    for whole, *found in zip(
        exact.search(TEXTS[:9], 72),
        exact.search(TEXTS[:9], 4, allowed),
        clusters.search(TEXTS[:9], 4, allowed),
        strict=True,
    ):
        scores = dict(as_pairs(whole))
        for hits in found:
            assert len(hits.positions) == min(4, allowed.sum())
            assert all(allowed[hits.positions])
            assert hits.scores.tolist() == pytest.approx([scores[place] for place in left(whole, allowed, 4)], abs=1e-4)
    assert len(clusters.search(["red"], 5, np.zeros(72, dtype=bool))[0].positions) == 0


@pytest.mark.parametrize("allowed", [FEW, MOST])
def test_milvus_finds_the_best_of_the_allowed(milvus, allowed):
    for whole, hits in zip(milvus.search(QUERIES, 72), milvus.search(QUERIES, 4, allowed), strict=True):
        assert hits.positions.tolist() == left(whole, allowed, 4)
    assert [len(hits.positions) for hits in milvus.search(["red stone"], 4, np.zeros(72, dtype=bool))] == [0]


def test_a_killed_encoding_goes_on(dense, tmp_path, encoder_folder, monkeypatch):
    from kard.retrieval import dense as module

    _, folder = dense
    monkeypatch.setattr(module, "_BLOCK", 16)
    (tmp_path / "vectors.f16").write_bytes((folder / "vectors.f16").read_bytes()[: 40 * 32 * 2 + 5])
    encoded = []
    documents = module.Encoder.documents
    monkeypatch.setattr(
        module.Encoder, "documents", lambda self, texts: encoded.extend(texts) or documents(self, texts)
    )
    build_retriever(section("dense", encoder_folder), TEXTS, tmp_path)
    assert encoded == TEXTS[32:]
    straight, resumed = (np.fromfile(path / "vectors.f16", dtype=np.float16) for path in (folder, tmp_path))
    assert resumed == pytest.approx(straight, abs=2e-3)


def test_clusters_find_most_of_what_all_vectors_do(dense, tmp_path, encoder_folder, monkeypatch):
    from kard.retrieval import dense as module

    exact, _ = dense
    monkeypatch.setattr(module, "_EXACT", 10)
    settings = section("dense", encoder_folder)
    build_retriever(settings, TEXTS, tmp_path)
    clusters = load_retriever(settings, tmp_path)
    both = zip(clusters.search(TEXTS[:20], 1), exact.search(TEXTS[:20], 1), strict=True)
    assert sum(one.positions.tolist() == other.positions.tolist() for one, other in both) >= 15


def test_another_encoder_is_an_error(dense):
    _, folder = dense
    with pytest.raises(UserError, match=r"built with retriever\.encoder"):
        load_retriever(section("dense", "other/encoder"), folder)


def test_hybrid_is_the_fusion_of_both(tmp_path, encoder_folder):
    pytest.importorskip("faiss")
    settings = section("hybrid", encoder_folder)
    build_retriever(settings, TEXTS, tmp_path)
    retriever = load_retriever(settings, tmp_path)
    rankings = [part.search(QUERIES, 1000) for part in retriever.retrievers]
    for number, hits in enumerate(retriever.search(QUERIES, 20)):
        scores: dict[int, float] = {}
        for ranking in rankings:
            for rank, place in enumerate(ranking[number].positions.tolist(), start=1):
                scores[place] = scores.get(place, 0) + 1 / (60 + rank)
        expected = sorted(scores, key=lambda place: (-scores[place], place))[:20]
        assert hits.positions.tolist() == expected
        [given] = retriever.scores([QUERIES[number]], [expected])
        assert given.tolist() == pytest.approx([scores[place] for place in expected])
    of_few = [part.search(QUERIES, 1000, FEW) for part in retriever.retrievers]
    for hits, *both in zip(retriever.search(QUERIES, 2, FEW), *of_few, strict=True):
        assert hits.positions.tolist() == fuse([part.positions for part in both]).positions[:2].tolist()
        assert all(FEW[hits.positions])


def test_fusion_of_any_rankings():
    chance = random.Random(0)
    rankings = [np.array(chance.sample(range(50), 20)) for _ in range(3)]
    hits = fuse(rankings)
    best = max(range(50), key=lambda p: (sum(1 / (61 + r.tolist().index(p)) for r in rankings if p in r), -p))
    assert hits.positions[0] == best
    assert len(hits.positions) == len(set(np.concatenate(rankings).tolist()))
    assert fuse([np.empty(0, np.int64)]).positions.tolist() == []


def test_milvus_searches_by_both(tmp_path, encoder_folder):
    pytest.importorskip("milvus_lite")
    settings = section("hybrid", encoder_folder, milvus=str(tmp_path / "own.db"))
    build_retriever(settings, TEXTS[:20], tmp_path / "index")
    retriever = load_retriever(settings, tmp_path / "index")
    [hits, nothing] = retriever.search([TEXTS[3], ""], 5)
    assert hits.positions[0] == 3
    assert len(hits.positions) == 5
    assert len(nothing.positions) == 5  # no words, but a meaning
    [few, by_meaning] = retriever.search([TEXTS[3], ""], 5, np.arange(20) % 7 == 4)
    assert sorted(few.positions.tolist()) == sorted(by_meaning.positions.tolist()) == [4, 11, 18]
