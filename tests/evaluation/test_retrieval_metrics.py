"""Hits@k, MRR, nDCG and recall against counts by hand, and gains against the statistics that they are made of."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kard.evaluation.retrieval import DEPTHS, evaluate_ranking, first_rank, hits_at, ndcg
from kard.evaluation.statistics import mcnemar


@pytest.mark.parametrize(
    ("ranking", "relevant", "depth", "hit"),
    [
        ([5, 3, 9], {5}, 1, True),
        ([5, 3, 9], {3}, 1, False),
        ([5, 3, 9], {3}, 2, True),
        ([5, 3, 9], {9, 4}, 10, True),
        ([5, 3, 9], {4}, 10, False),
        ([], {4}, 3, False),
        ([5], set(), 3, False),
    ],
)
def test_a_hit_is_a_relevant_passage_among_the_first(ranking, relevant, depth, hit):
    assert hits_at(ranking, relevant, depth) is hit


def test_shares_per_ranker_and_kind_of_relevance():
    rankings = {"bm25": [[1, 2, 3, 4], [9, 8, 7, 1], [5, 6]], "reranker": [[2, 1], [1, 9], [6, 5]]}
    relevant = {"gold": [{1}, {1}, set()], "silver": [{2}, {3}, {5}]}
    rows = {(row["name"], row["against"]): row for row in evaluate_ranking(rankings, relevant)}
    assert len(rows) == 4
    assert rows["bm25", "gold"]["hits"] == {"1": 1 / 2, "3": 1 / 2, "5": 1, "10": 1}
    assert rows["reranker", "gold"]["hits"] == {"1": 1 / 2, "3": 1, "5": 1, "10": 1}
    assert rows["bm25", "silver"]["hits"] == pytest.approx({"1": 1 / 3, "3": 2 / 3, "5": 2 / 3, "10": 2 / 3})
    assert rows["reranker", "silver"]["hits"] == pytest.approx({"1": 1 / 3, "3": 2 / 3, "5": 2 / 3, "10": 2 / 3})
    assert {key: row["n"] for key, row in rows.items()} == {
        ("bm25", "gold"): 2,
        ("reranker", "gold"): 2,
        ("bm25", "silver"): 3,
        ("reranker", "silver"): 3,
    }


def test_a_ranking_too_few_is_a_fault():
    with pytest.raises(ValueError, match="longer"):
        evaluate_ranking({"bm25": [[1]]}, {"gold": [{1}, {2}]})


@given(st.lists(st.tuples(st.permutations(range(12)), st.sets(st.integers(0, 11), min_size=1)), min_size=1, max_size=8))
def test_hits_grow_with_depth_and_count_first_places(judged):
    rankings, relevant = zip(*judged, strict=True)
    [row] = evaluate_ranking({"any": rankings}, {"gold": relevant})
    first = [min(order.index(right) for right in rights) for order, rights in judged]
    assert row["hits"] == {str(depth): sum(place < depth for place in first) / len(first) for depth in DEPTHS}
    shares = list(row["hits"].values())
    assert shares == sorted(shares)


def test_ranks_and_ndcg_by_hand():
    assert first_rank([5, 3, 9], {9, 3}) == 2
    assert first_rank([5, 3, 9], {1}) is None
    assert ndcg([5, 3, 9], {5}) == 1
    assert ndcg([5, 3, 9], {3}) == pytest.approx(1 / math.log2(3))
    assert ndcg([5, 3], {5, 7}) == pytest.approx(1 / (1 + 1 / math.log2(3)))  # 7 is no candidate, and is missed
    assert ndcg([*range(10), 77], {77}) == 0  # beyond the tenth place
    assert ndcg(range(20), set(range(20))) == pytest.approx(1)


def test_mean_reciprocal_rank_and_recall():
    [row] = evaluate_ranking({"any": [[1, 2], [1, 2], [1, 2], [1]]}, {"gold": [{1}, {2}, {3}, set()]})
    assert (row["mrr"], row["recall"], row["n"]) == (pytest.approx((1 + 1 / 2) / 3), pytest.approx(2 / 3), 3)


def test_gains_are_paired_over_the_judged_questions():
    rankings = {"bm25": [[0, 1]] * 12, "untrained": [[1, 0]] * 4 + [[0, 1]] * 8, "trained": [[1, 0]] * 12}
    relevant = [{1}] * 10 + [set()] * 2
    rows = {row["name"]: row for row in evaluate_ranking(rankings, {"gold": relevant}, seed=3)}
    assert rows["bm25"]["gains"] == []
    assert [gain["over"] for gain in rows["trained"]["gains"]] == ["bm25", "untrained"]
    over_bm25, over_untrained = rows["trained"]["gains"]
    assert over_bm25["difference"] == 1
    assert over_bm25["p_value"] == pytest.approx(3 * mcnemar([True] * 10, [False] * 10))  # Holm: the smallest of three
    assert over_untrained["difference"] == pytest.approx(0.6)
    assert over_untrained["ci95"][0] < 0.6 < over_untrained["ci95"][1]
